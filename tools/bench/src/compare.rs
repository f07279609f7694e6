//! Whether rows are slower than they were. Pure.

use serde_json::Value;

use super::measure::Measured;

/// What is never called slower: less than this is noise on any host.
const ALLOWED_NS: f64 = 50.0;

/// A line for each row whose added time exceeds that of the baseline by more than `threshold` percent and 50 ns. Rows that
/// the baseline does not have are not compared.
pub fn regressions(all: &[Measured], baseline: &Value, threshold: f64) -> Vec<String> {
    let mut worse = Vec::new();
    for measured in all {
        let (name, place) = (measured.name.as_str(), measured.place.name);
        let rows = baseline["rows"].as_array().map_or(&[][..], Vec::as_slice);
        let was = rows.iter().find(|row| row["row"] == name && row["place"] == place);
        let (Some(is), Some(was)) = (measured.added, was.and_then(|row| row["added_ns"].as_i64())) else { continue };
        if is_slower(is as f64, was as f64, threshold) {
            worse.push(format!("outboard: {place} {name} adds {is} ns, {was} ns in the baseline: slower\n"));
        }
    }
    worse
}

fn is_slower(is: f64, was: f64, threshold: f64) -> bool {
    is - was > (was.abs() * threshold / 100.0).max(ALLOWED_NS)
}

#[cfg(test)]
mod tests {
    use super::is_slower;

    #[test]
    fn a_row_is_slower_past_percent_and_nanoseconds() {
        assert!(!is_slower(450.0, 400.0, 10.0), "50 ns are allowed");
        assert!(is_slower(451.0, 400.0, 10.0));
        assert!(!is_slower(4400.0, 4000.0, 10.0));
        assert!(is_slower(4401.0, 4000.0, 10.0));
        assert!(!is_slower(100.0, 4000.0, 10.0), "faster");
    }
}
