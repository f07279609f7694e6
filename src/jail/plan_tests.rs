//! Plans over files that exist in a table only.

use std::collections::BTreeMap;

use super::*;
use crate::jail::program::elf::ReadAt;

#[derive(Default)]
struct Table(BTreeMap<PathBuf, Kind>);

impl Table {
    fn new(paths: &[(&str, Kind)]) -> Table {
        Table(paths.iter().map(|(path, kind)| (PathBuf::from(path), *kind)).collect())
    }
}

struct Nothing;

impl ReadAt for Nothing {
    fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<usize> {
        Ok(0)
    }
}

impl Files for Table {
    type File = Nothing;

    fn open(&self, path: &Path) -> Option<Nothing> {
        (self.0.get(path) == Some(&Kind::File)).then_some(Nothing)
    }

    fn read(&self, _: &Path) -> Option<Vec<u8>> {
        None
    }
}

impl Lookup for Table {
    fn kind(&self, path: &Path) -> Result<Kind, Errno> {
        self.0.get(path).copied().ok_or(Errno::ENOENT)
    }
}

const FACTS: Facts = Facts {
    caller: Caller { uid: 0, gid: 0, may_map: true },
    process_limit: u64::MAX,
    open_files: OpenFiles { soft: 1024, hard: 4096 },
    landlock: 7,
};

fn filter() -> Choice {
    Choice { program: Vec::new(), source: "a test".to_owned(), logs: false, warnings: Vec::new() }
}

fn plan_with(request: &Request, facts: &Facts) -> Result<Plan, PlanError> {
    let files = Table::new(&[("/bin/x", Kind::File), ("/data", Kind::Folder), ("/empty", Kind::Folder)]);
    Plan::new(request, filter(), facts, Path::new("/bin/x"), &files)
}

fn plan(request: &Request) -> Plan {
    plan_with(request, &FACTS).unwrap()
}

fn at(plan: &Plan, which: impl Fn(&Step) -> bool) -> usize {
    let found: Vec<usize> = (0..plan.steps.len()).filter(|index| which(&plan.steps[*index])).collect();
    assert_eq!(found.len(), 1, "{plan}");
    found[0]
}

/// What one step needs of another, or would undo, is a matter of order.
#[test]
fn steps_come_in_an_order_that_works() {
    let wish = Wish { source: "/data".into(), target: "/tmp/data".into(), writable: false };
    let plan = plan(&Request { mounts: vec![wish], vcpus: 1, ..Request::default() });
    let every =
        |which: fn(&Step) -> bool| (0..plan.steps.len()).filter(|index| which(&plan.steps[*index])).collect::<Vec<_>>();
    let opened = every(|step| matches!(step, Step::Open { .. }));
    let attached = every(|step| matches!(step, Step::Attach { .. }));
    let made = every(|step| matches!(step, Step::MakeFolder(_) | Step::MakeFile(_)));
    assert_eq!((opened.len(), attached.len(), plan.slots), (6, 6, 6), "program, mount and four devices");
    let ids = at(&plan, |step| matches!(step, Step::TakeIds { .. }));
    let root = at(&plan, |step| matches!(step, Step::MakeRoot { .. }));
    let tmp = at(&plan, |step| matches!(step, Step::KeepWritable(_)));
    let sealed = at(&plan, |step| *step == Step::SealRoot);
    let changed = at(&plan, |step| *step == Step::ChangeRoot);
    let powerless = at(&plan, |step| *step == Step::DropCapabilities);
    let promised = at(&plan, |step| *step == Step::NoNewPrivileges);
    let rules = at(&plan, |step| matches!(step, Step::BeginRules { .. }));
    let maps = at(&plan, |step| *step == Step::AwaitMaps);
    let order = [opened[5], maps, ids, root, made[0], *made.last().unwrap(), tmp, attached[0], attached[5], sealed];
    assert!(order.is_sorted(), "{plan}");
    assert!([sealed, changed, powerless, promised, rules, plan.steps.len() - 1].is_sorted(), "{plan}");
    assert_eq!(plan.steps.last(), Some(&Step::Restrict));
    for step in [Step::DropBounding, Step::LockSecureBits, Step::NoNamespaces] {
        assert!(at(&plan, |other| *other == step) < powerless, "{step} takes a capability");
    }
}

#[test]
fn a_folder_of_the_user_takes_the_place_of_tmp() {
    let wish = Wish { source: "/data".into(), target: "/tmp".into(), writable: true };
    let plan = plan(&Request { mounts: vec![wish], ..Request::default() });
    assert!(!plan.steps.iter().any(|step| matches!(step, Step::KeepWritable(_))), "{plan}");
}

#[test]
fn processes_grow_with_the_vcpus_up_to_the_callers_limit() {
    let processes = |vcpus, process_limit| {
        let plan = plan_with(&Request { vcpus, ..Request::default() }, &Facts { process_limit, ..FACTS }).unwrap();
        let limit = |step: &Step| match step {
            Step::Limit(Limit::Processes, value) => Some(*value),
            _ => None,
        };
        plan.steps.iter().find_map(limit).unwrap()
    };
    assert_eq!((processes(1, u64::MAX), processes(64, u64::MAX), processes(64, 100)), (260, 512, 100));
}

#[test]
fn kernels_without_landlock_do_without() {
    let plan = plan_with(&Request::default(), &Facts { landlock: 0, ..FACTS }).unwrap();
    assert_eq!(plan.steps.last(), Some(&Step::NoNewPrivileges));
    for version in 1..=7 {
        let plan = plan_with(&Request::default(), &Facts { landlock: version, ..FACTS }).unwrap();
        let known = landlock::known_access(version);
        let right = |step: &Step| !matches!(step, Step::Allow { access, .. } if access & !known != 0);
        assert!(plan.steps.iter().all(right), "rights that version {version} does not know: {plan}");
    }
}

#[test]
fn the_root_is_mounted_where_the_user_says() {
    let place = |root: Option<&str>| {
        let plan = plan(&Request { root: root.map(PathBuf::from), ..Request::default() });
        let place = |step: &Step| match step {
            Step::MakeRoot { at, .. } => Some(at.to_str().unwrap().to_owned()),
            _ => None,
        };
        plan.steps.iter().find_map(place).unwrap()
    };
    assert_eq!((place(None), place(Some("/empty"))), ("/".to_owned(), "/empty".to_owned()));
    let refused =
        |root: &str| plan_with(&Request { root: Some(root.into()), ..Request::default() }, &FACTS).unwrap_err();
    assert_eq!(refused("empty").to_string(), "--plugin-root empty: the path must be absolute");
    assert_eq!(refused("/bin/x").to_string(), "--plugin-root /bin/x: it is not a directory");
}

#[test]
fn the_vmms_user_is_the_plugins_too() {
    let request = Request { user: Some(User { uid: 7, gid: 8 }), ..Request::default() };
    let ids = plan(&request).ids;
    assert_eq!((ids.uid, ids.gid, ids.groups), (7, 8, Some(vec![])));
    let caller = Caller { uid: 5, gid: 5, may_map: false };
    let refused = plan_with(&request, &Facts { caller, ..FACTS }).unwrap_err();
    assert!(refused.is_lack(), "{refused}");
}

#[test]
fn the_explanation_has_a_line_for_each_step() {
    let plan = plan(&Request::default());
    let text = plan.to_string();
    for step in &plan.steps {
        let line = text.lines().find(|line| line.starts_with(&step.to_string()));
        assert!(line.is_some_and(|line| line.ends_with(step.why())), "{step} in {text}");
    }
}
