//! Cases, and the two lives of a test executable: `<exe> plugin <case>` is the plugin half of a case, anything else runs
//! the tests.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use super::cage::Cage;
use super::program::Program;

/// What a plugin half ends with. An error and a panic both end the plugin with a status that is not zero.
pub type Tested = Result<(), Box<dyn Error>>;

/// Status of a plugin half that failed.
pub const FAILED: u8 = 101;

/// One test: the plugin half, and the run around it.
#[derive(Clone, Copy)]
pub struct Case {
    /// Module path and name of the plugin half, which is also how the plugin is told what to be.
    pub name: &'static str,
    plugin: fn() -> Tested,
    options: &'static [&'static str],
    check: fn(&Case) -> Tested,
    cages: &'static [Cage],
    lack: fn() -> Option<String>,
    /// The one that this run of the test has.
    pub cage: Cage,
}

/// The case of a plugin half: `case!(name)`.
macro_rules! case {
    ($plugin:ident) => {
        $crate::common::suite::Case::new(concat!(module_path!(), "::", stringify!($plugin)), $plugin)
    };
}
pub(crate) use case;

impl Case {
    /// A case that passes when the program ends with status 0 around this plugin half. See [`case!`].
    pub const fn new(name: &'static str, plugin: fn() -> Tested) -> Case {
        let cages = &[Cage::Caged, Cage::Uncaged, Cage::CagedByUser];
        Case { name, plugin, options: &[], check: ends_well, cages, lack: || None, cage: Cage::Caged }
    }

    /// The same in some cages only.
    pub const fn only(self, cages: &'static [Cage]) -> Case {
        Case { cages, ..self }
    }

    /// The same with further options of `outboard run`.
    pub const fn options(self, options: &'static [&'static str]) -> Case {
        Case { options, ..self }
    }

    /// The same with another half around the plugin: it starts the program itself, by [`Case::program`].
    pub const fn around(self, check: fn(&Case) -> Tested) -> Case {
        Case { check, ..self }
    }

    /// The same, skipped aloud where this says what the machine lacks for it.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub const fn unless(self, lack: fn() -> Option<String>) -> Case {
        Case { lack, ..self }
    }

    /// The program with the plugin half of this case as its plugin.
    pub fn program(&self) -> Program {
        let mut program = Program::run_in(self.cage);
        program.args(self.options).plugin_is_this(self.name);
        program
    }
}

fn ends_well(case: &Case) -> Tested {
    case.program().start().ended().expect(0);
    Ok(())
}

/// The `main` of a test executable.
pub fn main(cases: &[&'static [Case]]) -> ExitCode {
    let cases: Vec<Case> = cases.iter().flat_map(|cases| cases.iter().copied()).collect();
    let words: Vec<String> = std::env::args().collect();
    match words.get(1..3) {
        Some([word, name]) if word == "plugin" => be_plugin(&cases, name),
        _ => run_tests(cases),
    }
}

fn be_plugin(cases: &[Case], name: &str) -> ExitCode {
    // A panic of any thread is a failure of the half, and ends it at once.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(FAILED.into());
    }));
    let case = cases.iter().find(|case| case.name == name).expect("the name of a case");
    match (case.plugin)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugin half {name}: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run_tests(cases: Vec<Case>) -> ExitCode {
    let arguments = Arguments::from_args();
    let lack = no_kvm();
    // In CI the cases run, and fail with the sentence; elsewhere they are skipped aloud.
    let skip = lack.is_some() && std::env::var_os("CI").is_none();
    if let (true, Some(lack)) = (skip, &lack) {
        eprintln!("{} tests are skipped, because no guest can run here: {lack}", cases.len());
    }
    let chosen = Cage::chosen();
    let caged = |case: &Case| {
        let case = *case;
        chosen
            .iter()
            .filter(|cage| case.cages.contains(cage))
            .map(|cage| Case { cage: *cage, ..case })
            .collect::<Vec<_>>()
    };
    let lacks: Vec<Option<String>> = cases.iter().map(|case| (case.lack)()).collect();
    say_what_is_skipped(&cases, &lacks, &chosen);
    let halves = cases.iter().zip(&lacks).flat_map(|(case, own)| caged(case).into_iter().map(move |case| (case, own)));
    let trials = halves.map(|(case, own)| {
        let lack = lack.clone();
        let body = move || match lack {
            Some(lack) => Err(Failed::from(format!("no guest can run here: {lack}"))),
            None => (case.check)(&case).map_err(|error| Failed::from(error.to_string())),
        };
        let name = case.name.split_once("::").map_or(case.name, |(_, name)| name);
        Trial::test(format!("{name}::{}", case.cage.name()), body).with_ignored_flag(skip || own.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Says once for each lack how many tests are skipped because of it.
fn say_what_is_skipped(cases: &[Case], lacks: &[Option<String>], chosen: &[Cage]) {
    let mut skipped = BTreeMap::<&str, usize>::new();
    for (case, lack) in cases.iter().zip(lacks) {
        let Some(lack) = lack else { continue };
        *skipped.entry(lack).or_default() += chosen.iter().filter(|cage| case.cages.contains(cage)).count();
    }
    for (lack, number) in skipped {
        eprintln!("{number} tests are skipped: {lack}");
    }
}

/// Why no guest can run here.
fn no_kvm() -> Option<String> {
    outboard::kvm::System::open(Path::new("/dev/kvm")).err().map(|error| error.to_string())
}
