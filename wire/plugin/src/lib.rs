//! placeholder during the first minutes
