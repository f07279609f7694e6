//! The words behind `cargo bench --bench NAME --`.

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Args {
    /// Only a few rounds, to see that the bench works; the figures mean little.
    pub quick: bool,
    /// Only rows whose name, placement included, contains this.
    pub filter: String,
    /// The `--spin` policy of the VMM.
    pub spin: String,
    /// More options of `outboard run`, such as `--no-vmm-seccomp`.
    pub run: Vec<String>,
}

impl Args {
    /// Reads the command line of this process. Ends it with a sentence on words that are not known.
    pub fn parse() -> Args {
        let mut args = Args { quick: false, filter: String::new(), spin: "auto".to_owned(), run: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => args.quick = true,
                "--filter" => args.filter = value(&word, words.next()),
                "--spin" => args.spin = value(&word, words.next()),
                "--run" => args.run.push(value(&word, words.next())),
                _ => usage(&format!("`{word}` is not known")),
            }
        }
        args
    }

    /// Whether a row is wanted.
    pub fn wants(&self, row: &str) -> bool {
        row.contains(&self.filter)
    }

    /// `few` in a quick run, else `many`.
    pub fn count(&self, many: usize, few: usize) -> usize {
        if self.quick { few } else { many }
    }
}

fn value(option: &str, word: Option<String>) -> String {
    word.unwrap_or_else(|| usage(&format!("{option} needs a value")))
}

fn usage(fault: &str) -> ! {
    eprintln!("{fault}; the options are --quick, --filter TEXT, --spin POLICY and --run OPTION");
    std::process::exit(2);
}
