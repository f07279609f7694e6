//! Port 0x61: gate and output of the timer's channel 2, which the speaker hangs on. The timer itself is the host's.

use crate::bus::ByteDevice;
use crate::clock::Clock;
use crate::host::Timer;

/// Frequency of the i8254 in Hz.
const FREQUENCY: u128 = 1_193_182;
const CHANNEL: usize = 2;
const GATE: u8 = 1;
const DATA: u8 = 2;
/// Toggles with every memory refresh, every 15 us.
const REFRESH: u8 = 0x10;
const OUTPUT: u8 = 0x20;

/// Nanoseconds after which the two clocks may have drifted apart.
const STALE: i64 = 1_000_000_000;

/// What the kernel's clock, by which it counts the timer, was seen to be ahead of the machine's. Each sight is late by the
/// way of the request to the kernel, so that of two the lesser is better, unless it is old.
#[derive(Clone, Copy, Debug)]
struct Lead {
    /// Nanoseconds of `CLOCK_MONOTONIC` less those of the machine's clock.
    lead: i64,
    /// When it was seen, by the machine's clock.
    at: i64,
}

/// Port 0x61.
pub struct Speaker {
    timer: Box<dyn Timer>,
    clock: Clock,
    /// Nanoseconds of the machine's clock at the access that is served.
    now: i64,
    lead: Option<Lead>,
    /// Gate and data bit as they were written.
    value: u8,
    refresh: bool,
}

impl Speaker {
    /// The speaker of this timer, in a machine with this clock.
    pub fn new(timer: Box<dyn Timer>, clock: Clock) -> Speaker {
        Speaker { timer, clock, now: 0, lead: None, value: 0, refresh: false }
    }

    fn output(&mut self) -> bool {
        let Ok(state) = self.timer.state() else { return false };
        let channel = &state.channels[CHANNEL];
        // Before its gate was opened for the first time the channel stands: low in mode 0, high in the others.
        let Some(Lead { lead, .. }) = self.lead else { return channel.mode != 0 };
        let passed = (self.now + lead - channel.count_load_time).max(0);
        let ticks = passed as u128 * FREQUENCY / 1_000_000_000;
        output(channel.mode, channel.count, ticks)
    }

    /// Opens or closes the gate. KVM begins all counts anew with that, as an open gate does in the modes that it triggers,
    /// and notes when it did: what the two clocks are apart follows.
    fn gate(&mut self, open: bool) {
        let Ok(mut state) = self.timer.state() else { return };
        state.channels[CHANNEL].gate = open.into();
        // The guest goes on with a timer whose gate stays as it was.
        let set = self.timer.set_state(&state);
        if let (Ok(()), Ok(state)) = (set, self.timer.state()) {
            let seen = Lead { lead: state.channels[CHANNEL].count_load_time - self.now, at: self.now };
            let better = |known: Lead| seen.lead < known.lead || seen.at - known.at > STALE;
            self.lead = Some(self.lead.filter(|known| !better(*known)).unwrap_or(seen));
        }
    }
}

/// The output of a channel so many ticks after it was loaded. A count of 0 stands for 65536.
fn output(mode: u8, count: u32, ticks: u128) -> bool {
    let count = if count == 0 { 0x1_0000 } else { u128::from(count) };
    match mode {
        0 => ticks >= count,
        1 => ticks < count,
        2 => !ticks.is_multiple_of(count) || ticks == 0,
        3 => ticks % count < count.div_ceil(2),
        _ => ticks == count,
    }
}

impl ByteDevice for Speaker {
    fn moment(&mut self, tsc: u64) {
        self.now = self.clock.at(tsc).as_nanos() as i64;
    }

    fn reset(&mut self) {
        // The timer is the host's, and reset by whoever has it.
        (self.value, self.refresh, self.lead) = (0, false, None);
    }

    fn read(&mut self, _: u64) -> u8 {
        self.refresh = !self.refresh;
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        self.value | flag(self.refresh, REFRESH) | flag(self.output(), OUTPUT)
    }

    fn write(&mut self, _: u64, value: u8) {
        let value = value & (GATE | DATA);
        if (value ^ self.value) & GATE != 0 {
            self.gate(value & GATE != 0);
        }
        self.value = value;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use outboard_plugin::Error;
    use outboard_plugin::kvm_bindings::kvm_pit_state2;

    use super::*;

    /// A timer as KVM has it, which notes the time of a clock of its own whenever its state is set.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<(kvm_pit_state2, i64)>>);

    impl Timer for Kept {
        fn state(&mut self) -> Result<kvm_pit_state2, Error> {
            Ok(self.0.lock().unwrap().0)
        }

        fn set_state(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
            let mut kept = self.0.lock().unwrap();
            let now = kept.1;
            kept.0 = *state;
            kept.0.channels[CHANNEL].count_load_time = now;
            Ok(())
        }
    }

    /// A speaker by a clock of a tick a microsecond, and its timer.
    fn speaker() -> (Speaker, Kept) {
        let (kept, clock) = (Kept::default(), Clock::new(1000));
        clock.begin(0);
        (Speaker::new(Box::new(kept.clone()), clock), kept)
    }

    #[test]
    fn the_gate_reaches_the_timer() {
        let (mut port, kept) = speaker();
        port.write(0, 3);
        let gate = || kept.0.lock().unwrap().0.channels[2].gate;
        assert_eq!((port.read(0) & 3, gate()), (3, 1));
        port.reset();
        assert_eq!(port.read(0) & 3, 0);
    }

    #[test]
    fn the_output_rises_when_the_count_is_over() {
        let (mut port, kept) = speaker();
        assert_eq!(port.read(0) & OUTPUT, 0, "its gate was never open");
        // The kernel's clock is a second ahead, and the request took 100 us at first and 20 us then.
        for (at, after) in [(1000, 100), (2000, 20), (3000, 70)] {
            for value in [1, 0] {
                port.moment(at);
                kept.0.lock().unwrap().1 = 1_000_000_000 + (at + after) as i64 * 1000;
                port.write(0, value);
            }
        }
        kept.0.lock().unwrap().0.channels[2].count = 0xffff; // 54.925 ms, from 3.070 ms on
        for (at, output) in [(57_970, 0), (57_980, OUTPUT)] {
            port.moment(at);
            assert_eq!(port.read(0) & OUTPUT, output, "{at}");
        }
    }

    #[test]
    fn outputs_by_mode() {
        assert!(!output(0, 10, 9) && output(0, 10, 10));
        assert!(output(1, 10, 9) && !output(1, 10, 10));
        assert!(output(2, 10, 9) && !output(2, 10, 10) && output(2, 10, 11));
        assert!(output(3, 10, 4) && !output(3, 10, 5) && output(3, 10, 10));
        assert!(output(4, 10, 10) && !output(4, 10, 11));
        assert!(!output(0, 0, 65535) && output(0, 0, 65536));
    }
}
