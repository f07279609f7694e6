//! What a plugin asks for at its stops, learned so that it need not be asked for.

use crate::space::Files;

/// Stops without asking after which files stop riding along. A file that rides along in vain costs its copy, about a
/// hundredth of what a command costs, so this many vain copies are made up for by one command less.
const PATIENCE: u8 = 64;

/// Files that a command costs an exchange and an ioctl each time, but that cost KVM nothing to send along.
const LEARNED: Files = Files::from_bits(Files::REGS.bits() | Files::SREGS.bits());

/// Which files this plugin asks for at accesses.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// Files that ride along by habit.
    files: Files,
    /// Files asked for since the last resume.
    asked: Files,
    /// Resumes since a file of the habit was asked for.
    unasked: u8,
}

impl Habit {
    /// Takes note that the plugin asked for files.
    #[inline]
    pub(super) fn ask(&mut self, files: Files) {
        self.asked |= files;
    }

    /// The files that shall ride along from this resume on.
    #[inline(always)]
    pub(super) fn resume(&mut self) -> Files {
        if (self.files | self.asked) == Files::NONE { Files::NONE } else { self.learn() }
    }

    fn learn(&mut self) -> Files {
        let asked = core::mem::take(&mut self.asked);
        let asked = Files::from_bits(asked.bits() & LEARNED.bits());
        if asked == Files::NONE {
            self.unasked += 1;
            if self.unasked >= PATIENCE {
                *self = Habit::default();
            }
        } else {
            self.files |= asked;
            self.unasked = 0;
        }
        self.files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_rides_along_until_it_was_not_asked_for_a_while() {
        let mut habit = Habit::default();
        assert_eq!(habit.resume(), Files::NONE);
        habit.ask(Files::REGS);
        habit.ask(Files::DEBUGREGS);
        for _ in 0..PATIENCE {
            assert_eq!(habit.resume(), Files::REGS);
        }
        assert_eq!(habit.resume(), Files::NONE);
        assert_eq!(habit.resume(), Files::NONE);
    }

    #[test]
    fn asking_again_keeps_the_habit() {
        let mut habit = Habit::default();
        habit.ask(Files::REGS);
        for _ in 0..10 * usize::from(PATIENCE) {
            habit.ask(Files::SREGS);
            assert!(habit.resume().contains(Files::SREGS));
        }
        assert_eq!(habit.resume(), Files::REGS | Files::SREGS);
    }
}
