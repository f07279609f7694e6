//! `outboard run`: from the words to a VM, and from its end to an exit status.

use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{JailArgs, RunArgs};
use super::voice::{self, say_line};
use crate::config;
use crate::jail::ids::User;
use crate::jail::plan::{Plan, PlanError, Request};
use crate::jail::vmm::VmmCage;
use crate::jail::{choice, environment};
use crate::machine::tap::TapError;
use crate::plugin::lifecycle::status;
use crate::plugin::process::validate_program;
use crate::plugin::{self, Report, Settings, SocketError, StartError};
use crate::report::{self, Floors};

/// The hidden command with which the executable starts itself as the plugin of the embedded machine.
pub const EMBEDDED: &str = "embedded-machine";

/// Runs a VM and its plugin; the exit status.
pub fn run(args: &RunArgs) -> u8 {
    let stderr = voice::open();
    start_log(args.verbose);
    let settings = match settings(args).map(|settings| Settings { stderr: stderr.map(Arc::new), ..settings }) {
        Ok(settings) => settings,
        Err(refused) => {
            say_line(&refused.said);
            return refused.status;
        }
    };
    if args.jail.explain_jail {
        let jail = settings.jail.as_ref().map(|jail| jail.to_string()).unwrap_or_default();
        let files = args.pc.as_ref().map_or("", |pc| &pc.explained);
        let _ = write!(std::io::stdout(), "{jail}{files}{}", settings.cage);
        return 0;
    }
    match &settings.jail {
        None => say_line("warning: the plugin runs without a jail, with all your rights (--disable-sandbox)"),
        Some(jail) => warn_of(jail),
    }
    match plugin::run(&settings) {
        Ok(report) => finish(args, &report),
        Err(error) => {
            say_line(&error.to_string());
            exit_status(&error)
        }
    }
}

fn warn_of(jail: &Plan) {
    jail.filter.warnings.iter().for_each(|warning| say_line(&format!("warning: {warning}")));
    for name in &jail.missing {
        let name = name.display();
        say_line(&format!(
            "warning: the plugin needs the library {name}, which is not found; give it by --plugin-mount"
        ));
    }
}

/// Prints what the user wants to know of a run.
fn finish(args: &RunArgs, report: &Report) -> u8 {
    let status = report.outcome.exit_status();
    let embedded = args.plugin.is_none() && args.pc.is_none();
    // The PC has said itself why it ended, if it could.
    let told = args.pc.is_some() && report.outcome.is_plugins_own();
    if (status != 0 && !told) || args.verbose > 0 {
        say_line(&report.outcome.to_string());
    }
    let wanted = args.json || args.verbose > 0 || (embedded && status == 0);
    let floors = if wanted { Floors::measure(report) } else { Floors::default() };
    // A reader that went away, such as `head`, is no failure of the run.
    if args.json {
        let _ = writeln!(std::io::stdout(), "{}", report::json(report, &floors, args.drill.is_some()));
    } else if wanted && embedded {
        let _ = write!(std::io::stdout(), "\n{}", report::table(report, &floors));
    } else if wanted {
        voice::say(&report::table(report, &floors));
    }
    status
}

/// A command line that is not carried out.
struct Refused {
    said: String,
    status: u8,
}

impl From<String> for Refused {
    fn from(said: String) -> Refused {
        Refused { said, status: status::USAGE }
    }
}

impl From<PlanError> for Refused {
    fn from(error: PlanError) -> Refused {
        let lacks = error.is_lack();
        Refused { said: error.to_string(), status: if lacks { status::HOST } else { status::USAGE } }
    }
}

fn settings(args: &RunArgs) -> Result<Settings, Refused> {
    let (program, mut argv) = match &args.plugin {
        Some(path) => {
            validate_program(path).map_err(|error| error.to_string())?;
            (path.clone(), vec![c_string(path.as_os_str().as_bytes())?])
        }
        None if args.pc.is_some() => (PathBuf::from("/proc/self/exe"), vec![c"outboard".into()]),
        None if args.params.is_empty() => {
            (PathBuf::from("/proc/self/exe"), vec![c"outboard".into(), c_string(EMBEDDED.as_bytes())?])
        }
        None => return Err("--params are arguments of the plugin: name one with --plugin".to_owned().into()),
    };
    for param in args.pc.iter().flat_map(|pc| &pc.words).chain(&args.params) {
        argv.push(c_string(param.as_bytes())?);
    }
    let own: Vec<_> = std::env::vars_os().collect();
    let wanted = args.jail.plugin_env.iter().map(|word| config::jail::variable(word)).collect::<Result<Vec<_>, _>>()?;
    // What the jail is given is checked also when it is not used.
    let user = args.jail.user.as_deref().map(config::jail::user).transpose()?;
    let cage = VmmCage { user, unfiltered: args.jail.no_vmm_seccomp };
    let jail = plan(args, &program, cage.user)?;
    let (jail, environment) = match args.jail.disable_sandbox {
        true => (None, environment::uncaged(&own, &wanted)),
        false => (Some(jail), environment::caged(&own, &wanted)),
    };
    Ok(Settings {
        kvm: Path::new("/dev/kvm").to_owned(),
        program,
        argv,
        name: args.watch.name.clone(),
        vcpus: args.cpus,
        affinity: args.cpu_affinity.clone().unwrap_or_default(),
        spin: args.spin,
        irqchip: args.irqchip,
        trace: args.watch.trace.clone(),
        stderr: None,
        trace_memory: args.watch.trace_memory,
        socket: args.watch.socket.clone(),
        drill: args.drill,
        tap: config::tap(args.host_ip, args.netmask, args.mac)?,
        tap_fds: args.tap_fd.clone(),
        files: args.pc.as_ref().map(|pc| pc.files.clone()).unwrap_or_default(),
        environment,
        cage,
        jail,
    })
}

/// The jail that the words ask for.
fn plan(args: &RunArgs, program: &Path, user: Option<User>) -> Result<Plan, Refused> {
    let JailArgs { plugin_root, plugin_mount, plugin_mount_file, plugin_gid_map, plugin_gid_map_file, .. } = &args.jail;
    let request = Request {
        root: plugin_root.clone(),
        mounts: config::jail::mounts(plugin_mount, plugin_mount_file)?,
        gid_maps: config::jail::gid_maps(plugin_gid_map, plugin_gid_map_file)?,
        user,
        vcpus: args.cpus,
    };
    let filter = choice::choose(args.jail.seccomp_policy_dir.as_deref(), args.jail.seccomp_log_failures);
    Ok(Plan::of_host(&request, filter.map_err(|error| error.to_string())?, program)?)
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "an argument holds a zero byte".to_owned())
}

fn exit_status(error: &StartError) -> u8 {
    match error {
        StartError::Kvm(_) | StartError::KvmCall(_) => status::HOST,
        StartError::Events(error) if error.is_host_lack() => status::HOST,
        StartError::TooManyVcpus { .. } | StartError::Tap(TapError::NotOpen(_) | TapError::NotTap(_)) => status::USAGE,
        StartError::Tap(_) => status::HOST,
        StartError::Spawn(error) if error.is_host_lack() => status::HOST,
        StartError::Spawn(_) => status::PLUGIN_FAILED,
        StartError::Trace(_) | StartError::Socket(SocketError::Make(..)) => status::HOST,
        StartError::Socket(_) => status::USAGE,
        StartError::Events(_) | StartError::Cage(_) | StartError::Call { .. } => status::INTERNAL,
    }
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .target(env_logger::Target::Pipe(Box::new(voice::Log)))
        .format(|out, record| {
            let level = match record.level() {
                log::Level::Warn => "warning".to_owned(),
                level => level.as_str().to_lowercase(),
            };
            writeln!(out, "outboard: {level}: {}", record.args())
        })
        .init();
}
