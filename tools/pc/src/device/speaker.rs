//! Port 0x61: gate and output of the timer's channel 2, which the speaker hangs on. The timer itself is the host's.

use std::time::Duration;

use crate::bus::ByteDevice;
use crate::host::Timer;

/// Frequency of the i8254 in Hz.
const FREQUENCY: u128 = 1_193_182;
const CHANNEL: usize = 2;
const GATE: u8 = 1;
const DATA: u8 = 2;
/// Toggles with every memory refresh, every 15 us.
const REFRESH: u8 = 0x10;
const OUTPUT: u8 = 0x20;

/// Port 0x61.
pub struct Speaker {
    timer: Box<dyn Timer>,
    /// `CLOCK_MONOTONIC`, which the kernel counts the timer by.
    now: fn() -> Duration,
    /// Gate and data bit as they were written.
    value: u8,
    refresh: bool,
}

impl Speaker {
    /// The speaker of this timer; `now` is `CLOCK_MONOTONIC`.
    pub fn new(timer: Box<dyn Timer>, now: fn() -> Duration) -> Speaker {
        Speaker { timer, now, value: 0, refresh: false }
    }

    fn output(&mut self) -> bool {
        let Ok(state) = self.timer.state() else { return false };
        let channel = &state.channels[CHANNEL];
        let loaded = Duration::from_nanos(channel.count_load_time.max(0) as u64);
        let passed = (self.now)().saturating_sub(loaded);
        let ticks = passed.as_nanos() * FREQUENCY / 1_000_000_000;
        output(channel.mode, channel.count, ticks)
    }

    /// Opens or closes the gate; in the modes that it triggers, opening it begins the count anew (i8254 datasheet).
    fn gate(&mut self, open: bool) {
        let Ok(mut state) = self.timer.state() else { return };
        let channel = &mut state.channels[CHANNEL];
        if open && channel.gate == 0 && matches!(channel.mode, 1 | 2 | 3 | 5) {
            channel.count_load_time = (self.now)().as_nanos() as i64;
        }
        channel.gate = open.into();
        // The guest goes on with a timer whose gate stays as it was.
        let _ = self.timer.set_state(&state);
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

    struct Kept(Arc<Mutex<kvm_pit_state2>>);

    impl Timer for Kept {
        fn state(&mut self) -> Result<kvm_pit_state2, Error> {
            Ok(*self.0.lock().unwrap())
        }

        fn set_state(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
            *self.0.lock().unwrap() = *state;
            Ok(())
        }
    }

    #[test]
    fn the_gate_begins_the_count_anew_where_it_triggers() {
        let state = Arc::new(Mutex::new(kvm_pit_state2::default()));
        let mut port = Speaker::new(Box::new(Kept(Arc::clone(&state))), || Duration::from_millis(5));
        state.lock().unwrap().channels[2].mode = 3;
        port.write(0, 1);
        let channel = state.lock().unwrap().channels[2];
        assert_eq!((channel.gate, channel.count_load_time), (1, 5_000_000));
        state.lock().unwrap().channels[2].mode = 0;
        port.write(0, 0);
        port.write(0, 3);
        let channel = state.lock().unwrap().channels[2];
        assert_eq!((channel.gate, channel.count_load_time), (1, 5_000_000));
        assert_eq!(port.read(0) & 3, 3);
    }

    #[test]
    fn the_output_rises_when_the_count_is_over() {
        let state = Arc::new(Mutex::new(kvm_pit_state2::default()));
        let mut port = Speaker::new(Box::new(Kept(Arc::clone(&state))), || Duration::from_millis(50));
        state.lock().unwrap().channels[2].count = 0xffff;
        assert_eq!(port.read(0) & OUTPUT, 0, "65535 ticks take 55 ms");
        state.lock().unwrap().channels[2].count = 59_000;
        assert_eq!(port.read(0) & OUTPUT, OUTPUT, "59000 ticks take 49.4 ms");
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
