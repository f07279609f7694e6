//! What the supervisor does for the clients of its management sockets.

use serde_json::json;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::lifecycle::Input;
use super::manage::Request;
use super::recorder::TraceFile;
use super::setup::StartError;
use super::source;
use super::supervisor::Supervisor;
use crate::event::{Event, Operation, Token};
use crate::sys::Errno;
use outboard_wire::stats::state;

impl Supervisor {
    /// Something happened to a listener or a client.
    pub(super) fn managed(&mut self, token: Token, event: Event) -> Result<(), StartError> {
        match token.source.checked_sub(source::CLIENTS) {
            None => self.new_clients(token),
            Some(place) => self.client(place as usize, token, event),
        }
    }

    fn new_clients(&mut self, token: Token) -> Result<(), StartError> {
        let listener = (token.source - source::LISTENERS) as usize;
        for (fd, client) in self.manage.accept(listener, source::CLIENTS) {
            self.events.recv(&fd, client).map_err(StartError::Events)?;
        }
        self.watch(token.source)
    }

    fn client(&mut self, place: usize, token: Token, event: Event) -> Result<(), StartError> {
        let goes_on = match event {
            Event::Received(mut message) => {
                let files = message.take_fds();
                let goes_on = self.manage.received(place, token, message.bytes(), files);
                self.events.recycle(message);
                goes_on
            }
            Event::Sent | Event::Failed { operation: Operation::Recv, errno: Errno::EINTR } => true,
            _ => false,
        };
        let fd = if goes_on { self.manage.fd(place, token) } else { None };
        let Some(fd) = fd else {
            self.manage.remove(place, token);
            if self.trace_owner == Some(token) {
                self.end_trace();
            }
            return Ok(());
        };
        let Some((line, file)) = self.manage.line(place, token) else {
            return self.events.recv(&fd, token).map_err(StartError::Events);
        };
        let done = match Request::parse(&line) {
            Ok(request) => self.manage_request(request, file, token)?,
            Err(said) => Err(said),
        };
        let answer = done.map_or_else(|said| format!("error {said}\n"), |said| format!("ok {said}\n"));
        self.events.send(&fd, answer.as_bytes(), Vec::new(), token).map_err(StartError::Events)
    }

    /// Carries a request out. The inner result is what the client is told.
    fn manage_request(
        &mut self,
        request: Request,
        file: Option<OwnedFd>,
        token: Token,
    ) -> Result<Result<String, String>, StartError> {
        Ok(match request {
            Request::Stop => {
                self.step(Input::Signal(libc::SIGTERM))?;
                Ok(self.status())
            }
            Request::Pause => self.hold(true),
            Request::Resume => self.hold(false),
            Request::Status => Ok(self.status()),
            Request::TraceStart(name) => self.start_trace(name, file, token),
            Request::TraceStop => self.stop_trace(),
        })
    }

    /// Pauses or resumes the guest.
    fn hold(&mut self, on: bool) -> Result<String, String> {
        let started = self.host.vcpus.started();
        self.host.vcpus.hold(on);
        self.host.stats.set_state(match (on, started) {
            (true, _) => state::PAUSED,
            (false, true) => state::RUNNING,
            (false, false) => state::STARTING,
        });
        Ok(self.status())
    }

    fn start_trace(&mut self, name: PathBuf, file: Option<OwnedFd>, owner: Token) -> Result<String, String> {
        let (vm, lost) = (self.host.stats.vm(), self.host.stats.dropped());
        let file = TraceFile::given(name, file).map_err(|error| error.to_string())?;
        self.host.recorder.start(file, &vm, lost, false).map_err(|error| error.to_string())?;
        self.trace_owner = Some(owner);
        Ok("{}".to_owned())
    }

    fn stop_trace(&mut self) -> Result<String, String> {
        self.trace_owner = None;
        let lost = self.host.recorder.stop(self.host.stats.dropped()).map_err(|error| error.to_string())?;
        Ok(json!({"lost": lost}).to_string())
    }

    /// Ends the trace that is being recorded, if there is one, and says what is wrong with it.
    pub(super) fn end_trace(&mut self) {
        if !self.host.recorder.is_active() {
            return;
        }
        self.trace_owner = None;
        match self.host.recorder.stop(self.host.stats.dropped()) {
            Ok(0) => {}
            Ok(lost) => log::warn!("the trace lacks {lost} exits, which found no room while it was written"),
            Err(error) => log::warn!("{error}"),
        }
    }

    fn status(&self) -> String {
        let vm = self.host.stats.vm();
        json!({
            "state": vm.state_name(),
            "pid": vm.pid,
            "name": vm.name,
            "vcpus": vm.vcpus,
            "plugin": vm.path,
        })
        .to_string()
    }
}
