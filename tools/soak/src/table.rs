//! What is printed and written.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::sample::Series;

/// Prints a row per series; true if all are flat.
pub fn print(all: &[Series]) -> bool {
    println!(
        "{:<26}{:>9}{:>9} |{:>14}{:>8} |{:>14}{:>8} | verdict",
        "", "min", "max", "median before", "after", "floor before", "after"
    );
    let mut flat = true;
    for series in all {
        let Some(verdict) = series.verdict() else {
            println!("{:<26} too few looks to tell", series.name);
            flat = false;
            continue;
        };
        let (range, medians, floors) = (verdict.range, verdict.medians, verdict.floors);
        let grown = floors.1 as i64 - floors.0 as i64;
        let word = match verdict.flat {
            true => format!("flat ({grown:+}, {} allowed)", series.tolerance),
            false => format!("GROWS by {grown}, {} allowed", series.tolerance),
        };
        println!(
            "{:<26}{:>9}{:>9} |{:>14}{:>8} |{:>14}{:>8} | {word}",
            series.name, range.0, range.1, medians.0, medians.1, floors.0, floors.1
        );
        flat &= verdict.flat;
    }
    println!("{}", if flat { "flat" } else { "not flat" });
    flat
}

/// The looks as a file.
pub struct Csv {
    file: File,
    has_head: bool,
}

impl Csv {
    /// Makes it.
    ///
    /// # Errors
    /// A sentence.
    pub fn create(path: &PathBuf) -> Result<Csv, String> {
        let file = File::create(path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Csv { file, has_head: false })
    }

    /// Writes the last values.
    ///
    /// # Errors
    /// A sentence.
    pub fn row(&mut self, time: Duration, all: &[Series]) -> Result<(), String> {
        let mut line = String::new();
        if !self.has_head {
            let names: Vec<&str> = all.iter().map(|series| series.name).collect();
            line = format!("seconds,{}\n", names.join(","));
            self.has_head = true;
        }
        let values = all.iter().filter_map(|series| series.values.last()).map(u64::to_string);
        line += &format!("{:.1},{}\n", time.as_secs_f64(), values.collect::<Vec<_>>().join(","));
        self.file.write_all(line.as_bytes()).map_err(|error| format!("cannot write the looks: {error}"))
    }
}
