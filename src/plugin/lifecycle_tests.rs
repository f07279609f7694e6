//! The whole table, and every order of events up to a depth.

use super::Action::*;
use super::*;

const EXIT_0: ExitStatus = ExitStatus::Exited(0);
const EXIT_5: ExitStatus = ExitStatus::Exited(5);
const KILLED: ExitStatus = ExitStatus::Signaled { signo: 9, core: false };
const CRASHED: ExitStatus = ExitStatus::Signaled { signo: 11, core: true };

fn reason() -> String {
    "why".to_string()
}

fn in_state(state: State) -> Lifecycle {
    let mut life = Lifecycle::new();
    let inputs = match state {
        State::Starting => vec![],
        State::Running => vec![Input::Connected],
        State::ShuttingDown => vec![Input::Connected, Input::GuestShutDown(reason())],
        State::Killed => vec![Input::Connected, Input::GuestShutDown(reason()), Input::DeadlinePassed],
        State::Gone(status) => vec![Input::Connected, Input::ProcessEnded(status)],
    };
    for input in inputs {
        life.step(input);
    }
    assert_eq!(life.state(), state);
    life
}

/// Every input in every state: the actions and the state after it.
#[test]
fn the_table_of_transitions() {
    use State::*;
    let ask = || vec![StopVcpus, SignalShutdownEvent, ArmDeadline];
    let shut = |input: Input| {
        vec![
            (Starting, input.clone(), ask(), ShuttingDown),
            (Running, input.clone(), ask(), ShuttingDown),
            (ShuttingDown, input.clone(), vec![], ShuttingDown),
            (Killed, input.clone(), vec![], Killed),
            (Gone(EXIT_5), input, vec![], Gone(EXIT_5)),
        ]
    };
    let mut table: Vec<(State, Input, Vec<Action>, State)> = vec![
        (Starting, Input::Connected, vec![], Running),
        (Running, Input::Connected, vec![], Running),
        (ShuttingDown, Input::Connected, vec![], ShuttingDown),
        (Killed, Input::Connected, vec![], Killed),
        (Gone(EXIT_5), Input::Connected, vec![], Gone(EXIT_5)),
        (Starting, Input::ProcessEnded(EXIT_0), vec![StopVcpus, Finish], Gone(EXIT_0)),
        (Running, Input::ProcessEnded(EXIT_0), vec![StopVcpus, Finish], Gone(EXIT_0)),
        (ShuttingDown, Input::ProcessEnded(EXIT_0), vec![Finish], Gone(EXIT_0)),
        (Killed, Input::ProcessEnded(EXIT_0), vec![Finish], Gone(EXIT_0)),
        (Gone(EXIT_5), Input::ProcessEnded(EXIT_0), vec![], Gone(EXIT_5)),
        (Starting, Input::Violation(reason()), vec![StopVcpus, Kill], Killed),
        (Running, Input::Violation(reason()), vec![StopVcpus, Kill], Killed),
        (ShuttingDown, Input::Violation(reason()), vec![Kill], Killed),
        (Killed, Input::Violation(reason()), vec![], Killed),
        (Gone(EXIT_5), Input::Violation(reason()), vec![], Gone(EXIT_5)),
        (Starting, Input::DeadlinePassed, vec![], Starting),
        (Running, Input::DeadlinePassed, vec![], Running),
        (ShuttingDown, Input::DeadlinePassed, vec![Kill], Killed),
        (Killed, Input::DeadlinePassed, vec![], Killed),
        (Gone(EXIT_5), Input::DeadlinePassed, vec![], Gone(EXIT_5)),
    ];
    table.extend(shut(Input::Signal(libc::SIGINT)));
    table.extend(shut(Input::GuestShutDown(reason())));
    table.extend(shut(Input::GuestUnserved(reason())));
    table.extend(shut(Input::HostFailure(reason())));
    table.extend(shut(Input::Mismatch(reason())));
    table.extend(shut(Input::ConnectionClosed));
    for (before, input, actions, after) in table {
        let mut life = in_state(before);
        assert_eq!(life.step(input.clone()), actions, "{before:?}, {input:?}");
        assert_eq!(life.state(), after, "{before:?}, {input:?}");
    }
}

#[test]
fn the_second_interrupt_kills() {
    let mut life = in_state(State::Running);
    assert_eq!(life.step(Input::Signal(libc::SIGINT)), [StopVcpus, SignalShutdownEvent, ArmDeadline]);
    assert_eq!(life.step(Input::Signal(libc::SIGTERM)), [Kill]);
    assert_eq!(life.step(Input::Signal(libc::SIGINT)), []);
    assert_eq!(life.step(Input::ProcessEnded(KILLED)), [Finish]);
    assert_eq!(life.outcome().unwrap().exit_status(), 130, "the first signal counts");
}

/// Runs to the end; the exit status.
fn status_of(inputs: impl IntoIterator<Item = Input>) -> u8 {
    let mut life = in_state(State::Running);
    for input in inputs {
        life.step(input);
    }
    life.outcome().unwrap().exit_status()
}

#[test]
fn the_table_of_exit_statuses() {
    use Input::*;
    let guest = || GuestShutDown(reason());
    let table: Vec<(Vec<Input>, u8)> = vec![
        (vec![ProcessEnded(EXIT_0)], 0),
        (vec![ProcessEnded(EXIT_5)], 5),
        (vec![ProcessEnded(CRASHED)], 1),
        (vec![ProcessEnded(KILLED)], 1),
        (vec![ConnectionClosed, ProcessEnded(EXIT_5)], 5),
        (vec![ConnectionClosed, ProcessEnded(CRASHED)], 1),
        (vec![ConnectionClosed, DeadlinePassed, ProcessEnded(KILLED)], 1),
        (vec![guest(), ProcessEnded(EXIT_0)], 0),
        (vec![guest(), ProcessEnded(EXIT_5)], 5),
        (vec![guest(), ProcessEnded(CRASHED)], 1),
        (vec![guest(), DeadlinePassed, ProcessEnded(KILLED)], 1),
        (vec![guest(), DeadlinePassed, ProcessEnded(EXIT_0)], 1),
        (vec![guest(), Violation(reason()), ProcessEnded(KILLED)], 73),
        (vec![guest(), Signal(libc::SIGINT), ProcessEnded(EXIT_5)], 5),
        (vec![GuestUnserved(reason()), ProcessEnded(EXIT_0)], 74),
        (vec![GuestUnserved(reason()), DeadlinePassed, ProcessEnded(KILLED)], 74),
        (vec![Signal(libc::SIGINT), ProcessEnded(EXIT_0)], 0),
        (vec![Signal(libc::SIGINT), ProcessEnded(EXIT_5)], 130),
        (vec![Signal(libc::SIGTERM), ProcessEnded(CRASHED)], 143),
        (vec![Signal(libc::SIGTERM), DeadlinePassed, ProcessEnded(KILLED)], 143),
        (vec![Signal(libc::SIGTERM), DeadlinePassed, ProcessEnded(EXIT_0)], 143),
        (vec![Signal(libc::SIGINT), Violation(reason()), ProcessEnded(KILLED)], 130),
        (vec![Violation(reason()), ProcessEnded(KILLED)], 73),
        (vec![Violation(reason()), ProcessEnded(EXIT_0)], 73),
        (vec![ConnectionClosed, Violation(reason()), ProcessEnded(KILLED)], 73),
        (vec![HostFailure(reason()), ProcessEnded(EXIT_0)], 70),
        (vec![HostFailure(reason()), Violation(reason()), ProcessEnded(KILLED)], 70),
        (vec![guest(), HostFailure(reason()), ProcessEnded(EXIT_0)], 70),
    ];
    for (inputs, expected) in table {
        assert_eq!(status_of(inputs.clone()), expected, "{inputs:?}");
    }
}

#[test]
fn an_outcome_is_one_sentence() {
    let sentence = |cause, status, outstayed| Outcome { cause, status, outstayed }.to_string();
    assert_eq!(sentence(Cause::PluginEnded, EXIT_5, false), "the plugin ended with status 5");
    assert_eq!(sentence(Cause::PluginEnded, CRASHED, false), "the plugin was ended by signal 11 and dumped core");
    assert_eq!(
        sentence(Cause::Signal(libc::SIGINT), KILLED, true),
        "ended by SIGINT; the plugin did not end within a second of the shutdown event and was killed"
    );
    assert_eq!(sentence(Cause::Violation(reason()), KILLED, false), "the plugin broke the protocol: why");
}

/// Every sequence of six inputs: nothing is done twice, nothing is done after the end, and every end has an outcome.
#[test]
fn no_order_of_events_breaks_the_rules() {
    let inputs = [
        Input::Connected,
        Input::ProcessEnded(EXIT_0),
        Input::Signal(libc::SIGINT),
        Input::GuestShutDown(reason()),
        Input::Violation(reason()),
        Input::HostFailure(reason()),
        Input::DeadlinePassed,
        Input::ConnectionClosed,
    ];
    fn explore(life: &Lifecycle, done: &[Action], depth: u32, inputs: &[Input]) {
        for action in [StopVcpus, SignalShutdownEvent, ArmDeadline, Kill, Finish] {
            assert!(done.iter().filter(|other| **other == action).count() <= 1, "{action:?} twice: {done:?}");
        }
        assert_eq!(life.outcome().is_some(), done.contains(&Finish));
        if let Some(position) = done.iter().position(|action| *action == Finish) {
            assert_eq!(position, done.len() - 1, "something is done after the end: {done:?}");
            assert!(done.contains(&StopVcpus));
        }
        if life.state() == State::ShuttingDown {
            assert!(done.contains(&ArmDeadline), "a shutdown without a deadline");
        }
        if depth > 0 {
            for input in inputs {
                let mut next = life.clone();
                let mut done = done.to_vec();
                done.extend(next.step(input.clone()));
                explore(&next, &done, depth - 1, inputs);
            }
        }
    }
    explore(&Lifecycle::new(), &[], 6, &inputs);
}
