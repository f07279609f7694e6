//! The keyboard controller i8042 and the keyboard behind it. There is no mouse.
//!
//! Commands are those of the IBM AT and PS/2 technical references.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::ByteDevice;
use crate::ending::Ending;
use crate::host::Irq;

const STATUS_FULL: u8 = 0x01;
const STATUS_SELF_TEST: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;

const MODE_INTERRUPT: u8 = 0x01;
const MODE_SELF_TEST: u8 = 0x04;
const MODE_DISABLED: u8 = 0x10;
const MODE_MOUSE_DISABLED: u8 = 0x20;
const MODE_TRANSLATE: u8 = 0x40;

/// Output port: not resetting, and address line 20 on.
const PORT_DEFAULT: u8 = 0x03;
const PORT_NOT_RESET: u8 = 0x01;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Bytes that a keyboard remembers while nobody reads them.
const MEMORY: usize = 16;

/// Codes of set 2 by those of set 1: the table by which the controller translates, read backwards.
const SET_2: [u8; 0x59] = [
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d, //
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b, //
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a, //
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03, //
    0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69, //
    0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07,
];

/// What the next byte to the data port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Keyboard,
    Mode,
    OutputPort,
    KeyboardBuffer,
    Nothing,
    Parameter(u8),
}

/// Ports 0x60 and 0x64, as registers 0 and 4.
pub struct Keyboard {
    ending: Ending,
    irq: Irq,
    mode: u8,
    port: u8,
    expects: Expects,
    /// A command was written last, not data.
    commanded: bool,
    /// Bytes of the controller itself, which go first and are not translated, and those of the keyboard.
    answers: VecDeque<u8>,
    keys: VecDeque<u8>,
    /// The byte in the output buffer.
    full: Option<u8>,
    /// What the buffer held last, for a guest that reads it again.
    last: u8,
    scanning: bool,
    /// It is on after a reset, for want of firmware that switches it on.
    on: bool,
}

impl Keyboard {
    /// A keyboard whose controller raises `irq` and resets this machine.
    pub fn new(ending: Ending, irq: Irq) -> Keyboard {
        Keyboard {
            ending,
            irq,
            mode: MODE_DISABLED | MODE_MOUSE_DISABLED | MODE_TRANSLATE,
            port: PORT_DEFAULT,
            expects: Expects::Keyboard,
            commanded: false,
            answers: VecDeque::new(),
            keys: VecDeque::new(),
            full: None,
            last: 0,
            scanning: true,
            on: false,
        }
    }

    /// Switches the keyboard on, as firmware leaves it for what it starts.
    pub fn switch_on(&mut self) {
        self.on = true;
        self.mode = MODE_INTERRUPT | MODE_SELF_TEST | MODE_MOUSE_DISABLED | MODE_TRANSLATE;
    }

    /// A key goes down or up: its code in set 1, with 0xe0 before it where it has that. True if the keyboard took it.
    pub fn key(&mut self, code: &[u8]) -> bool {
        if !self.scanning || self.keys.len() + code.len() > MEMORY {
            return false;
        }
        for byte in code {
            match *byte {
                byte if self.mode & MODE_TRANSLATE != 0 || byte == 0xe0 => self.keys.push_back(byte),
                byte => {
                    let plain = SET_2.get(usize::from(byte & 0x7f)).copied().unwrap_or(0);
                    self.keys.extend((byte & 0x80 != 0).then_some(0xf0));
                    self.keys.push_back(plain);
                }
            }
        }
        self.fill();
        true
    }

    /// Moves the next byte to the output buffer, if that is free.
    fn fill(&mut self) {
        if self.full.is_some() {
            return;
        }
        self.full = match self.answers.pop_front() {
            None if self.mode & MODE_DISABLED == 0 => self.keys.pop_front(),
            answer => answer,
        };
        if self.full.is_some() && self.mode & MODE_INTERRUPT != 0 {
            (self.irq)();
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
        self.fill();
    }

    fn command(&mut self, command: u8) {
        self.expects = Expects::Keyboard;
        match command {
            0x20 => self.answer(&[self.mode]),
            0x60 => self.expects = Expects::Mode,
            0xa7 => self.mode |= MODE_MOUSE_DISABLED,
            0xa8 => self.mode &= !MODE_MOUSE_DISABLED,
            0xa9 => self.answer(&[1]), // the mouse's line is dead: there is none
            0xaa => {
                self.mode |= MODE_SELF_TEST;
                self.answer(&[0x55]);
            }
            0xab => self.answer(&[0]),
            0xad => self.mode |= MODE_DISABLED,
            0xae => {
                self.mode &= !MODE_DISABLED;
                self.fill();
            }
            0xc0 => self.answer(&[0x80]), // not locked
            0xd0 => self.answer(&[self.port | if self.full.is_some() { 0x10 } else { 0 }]),
            0xd1 => self.expects = Expects::OutputPort,
            0xd2 => self.expects = Expects::KeyboardBuffer,
            0xd3 | 0xd4 => self.expects = Expects::Nothing,
            0xdd => self.port &= !2,
            0xdf => self.port |= 2,
            0xf0..=0xff if command & PORT_NOT_RESET == 0 => self.reset_machine(),
            _ => {}
        }
    }

    fn reset_machine(&self) {
        self.ending.reset("keyboard controller");
    }

    fn data(&mut self, value: u8) {
        match core::mem::replace(&mut self.expects, Expects::Keyboard) {
            Expects::Mode => {
                self.mode = value;
                self.fill();
            }
            Expects::OutputPort if value & PORT_NOT_RESET == 0 => self.reset_machine(),
            Expects::OutputPort => self.port = value,
            Expects::KeyboardBuffer => self.answer(&[value]),
            Expects::Nothing => {}
            Expects::Keyboard => self.keyboard_command(value),
            Expects::Parameter(0xf0) if value == 0 => self.answer(&[ACKNOWLEDGE, 2]), // codes are those of set 2
            Expects::Parameter(_) => self.answer(&[ACKNOWLEDGE]),
        }
    }

    fn keyboard_command(&mut self, command: u8) {
        match command {
            0xed | 0xf0 | 0xf3 => {
                self.expects = Expects::Parameter(command);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => {
                let identity = if self.mode & MODE_TRANSLATE != 0 { 0x41 } else { 0x83 };
                self.answer(&[ACKNOWLEDGE, 0xab, identity]);
            }
            0xf4..=0xf6 => {
                self.scanning = command != 0xf5;
                self.keys.clear();
                self.answer(&[ACKNOWLEDGE]);
            }
            0xff => {
                self.scanning = true;
                self.keys.clear();
                self.answer(&[ACKNOWLEDGE, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}

impl ByteDevice for Keyboard {
    fn reset(&mut self) {
        let on = self.on;
        *self = Keyboard::new(self.ending.clone(), Arc::clone(&self.irq));
        if on {
            self.switch_on();
        }
    }

    fn read(&mut self, register: u64) -> u8 {
        match register {
            0 => {
                if let Some(byte) = self.full.take() {
                    self.last = byte;
                    self.fill();
                }
                self.last
            }
            _ => {
                let full = if self.full.is_some() { STATUS_FULL } else { 0 };
                let tested = if self.mode & MODE_SELF_TEST != 0 { STATUS_SELF_TEST } else { 0 };
                full | tested | STATUS_UNLOCKED | if self.commanded { STATUS_COMMAND } else { 0 }
            }
        }
    }

    fn write(&mut self, register: u64, value: u8) {
        self.commanded = register != 0;
        if self.commanded { self.command(value) } else { self.data(value) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::host::tests::counted;

    fn keyboard() -> (Keyboard, Arc<AtomicUsize>, Ending) {
        let ((irq, raised), ending) = (counted(), Ending::default());
        (Keyboard::new(ending.clone(), irq), raised, ending)
    }

    fn drain(keyboard: &mut Keyboard) -> Vec<u8> {
        let mut got = Vec::new();
        while keyboard.read(4) & STATUS_FULL != 0 {
            got.push(keyboard.read(0));
        }
        got
    }

    #[test]
    fn firmware_finds_controller_and_keyboard() {
        let (mut keyboard, ..) = keyboard();
        keyboard.write(4, 0xaa);
        assert_eq!(drain(&mut keyboard), [0x55]);
        keyboard.write(4, 0xab);
        assert_eq!(drain(&mut keyboard), [0]);
        keyboard.write(0, 0xff);
        assert_eq!(drain(&mut keyboard), [ACKNOWLEDGE, SELF_TEST_PASSED]);
        keyboard.write(0, 0xed);
        keyboard.write(0, 7);
        assert_eq!(drain(&mut keyboard), [ACKNOWLEDGE, ACKNOWLEDGE]);
        keyboard.write(4, 0x60);
        keyboard.write(0, 0x61);
        keyboard.write(4, 0x20);
        assert_eq!(drain(&mut keyboard), [0x61]);
        keyboard.write(0, 0xee);
        keyboard.reset();
        assert_eq!(drain(&mut keyboard), []);
        keyboard.write(4, 0x20);
        assert_eq!(drain(&mut keyboard), [MODE_DISABLED | MODE_MOUSE_DISABLED | MODE_TRANSLATE]);
        keyboard.switch_on();
        keyboard.reset();
        keyboard.key(&[0x1e]);
        assert_eq!(drain(&mut keyboard), [0x1e]);
    }

    #[test]
    fn keys_interrupt_one_byte_at_a_time_while_the_keyboard_is_on() {
        let (mut keyboard, raised, _) = keyboard();
        keyboard.write(4, 0x60);
        keyboard.write(0, MODE_INTERRUPT | MODE_TRANSLATE | MODE_DISABLED);
        assert!(keyboard.key(&[0x1e]));
        assert_eq!(raised.load(Ordering::Relaxed), 0);
        keyboard.write(4, 0xae);
        assert!(keyboard.key(&[0x9e]));
        assert_eq!(raised.load(Ordering::Relaxed), 1);
        assert_eq!(keyboard.read(0), 0x1e);
        assert_eq!(raised.load(Ordering::Relaxed), 2);
        assert_eq!((keyboard.read(0), keyboard.read(0)), (0x9e, 0x9e));
    }

    #[test]
    fn without_translation_codes_are_those_of_set_2() {
        let (mut keyboard, ..) = keyboard();
        keyboard.write(4, 0x60);
        keyboard.write(0, 0);
        keyboard.key(&[0x1e]);
        keyboard.key(&[0x9e]);
        keyboard.key(&[0xe0, 0xc8]);
        assert_eq!(drain(&mut keyboard), [0x1c, 0xf0, 0x1c, 0xe0, 0xf0, 0x75]);
    }

    #[test]
    fn a_keyboard_forgets_what_it_has_no_room_for() {
        let (mut keyboard, ..) = keyboard();
        let taken = (0..40).filter(|_| keyboard.key(&[0x1e])).count();
        assert_eq!(taken, MEMORY);
        keyboard.write(0, 0xf5);
        assert!(!keyboard.key(&[0x1e]));
    }

    #[test]
    fn both_ways_of_reset_reset() {
        for (command, data) in [(0xfe, None), (0xd1, Some(0x02))] {
            let (mut keyboard, _, ending) = keyboard();
            keyboard.write(4, command);
            if let Some(data) = data {
                assert!(!ending.resets());
                keyboard.write(0, data);
            }
            assert!(ending.resets());
        }
        let (mut keyboard, _, ending) = keyboard();
        keyboard.write(4, 0xff);
        assert!(!ending.resets(), "it pulses nothing");
    }
}
