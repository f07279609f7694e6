//! A text display, drawn in a terminal: what has changed since the last time, by control sequences.

use std::fmt::Write as _;

use crate::device::vga::View;

/// Characters of a line, and lines.
pub const COLUMNS: usize = 80;
/// Lines of the display.
pub const LINES: usize = 25;
/// Bytes of a screen: a character and its attribute each.
pub const SCREEN: usize = COLUMNS * LINES * 2;

/// Characters of the display's font below space and from 0x7f on (code page 437).
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// A display and what the terminal shows of it.
#[derive(Debug)]
pub struct Screen {
    low: Vec<char>,
    high: Vec<char>,
    shown: Vec<u8>,
    cursor: Option<usize>,
    begun: bool,
}

impl Default for Screen {
    fn default() -> Screen {
        let (low, high) = (LOW.chars().collect(), HIGH.chars().collect());
        Screen { low, high, shown: vec![0; SCREEN], cursor: None, begun: false }
    }
}

impl Screen {
    /// The control sequences that make the terminal show `cells`; empty if it does.
    pub fn draw(&mut self, cells: &[u8; SCREEN], view: View) -> String {
        let mut out = String::new();
        if !self.begun {
            out.push_str("\x1b[?25l\x1b[0m\x1b[2J");
            (self.begun, self.cursor) = (true, None);
            self.shown = [0, 0x07].repeat(COLUMNS * LINES); // as the terminal is after it was cleared
        }
        let (mut at, mut attribute) = (usize::MAX, None);
        for (place, (now, before)) in cells.chunks(2).zip(self.shown.chunks(2)).enumerate() {
            if now == before {
                continue;
            }
            if at != place {
                let _ = write!(out, "\x1b[{};{}H", place / COLUMNS + 1, place % COLUMNS + 1);
            }
            if attribute != Some(now[1]) {
                out.push_str(&colours(now[1]));
                attribute = Some(now[1]);
            }
            out.push(self.character(now[0]));
            at = place + 1;
            if at % COLUMNS == 0 {
                at = usize::MAX; // where the terminal's cursor goes at the end of a line is its own affair
            }
        }
        self.shown.copy_from_slice(cells);
        let cursor = view
            .cursor
            .and_then(|at| usize::from(at).checked_sub(view.start.into()))
            .filter(|at| *at < COLUMNS * LINES);
        if cursor != self.cursor || (cursor.is_some() && !out.is_empty()) {
            match cursor {
                Some(at) => drop(write!(out, "\x1b[{};{}H\x1b[?25h", at / COLUMNS + 1, at % COLUMNS + 1)),
                None => out.push_str("\x1b[?25l"),
            }
            self.cursor = cursor;
        }
        out
    }

    /// Leaves the terminal with the cursor below the display.
    pub fn finish(&self) -> String {
        if self.begun { format!("\x1b[0m\x1b[{LINES};1H\r\n\x1b[?25h") } else { String::new() }
    }

    /// The display's lines as text.
    pub fn text(&self, cells: &[u8; SCREEN]) -> String {
        let line = |line: &[u8]| line.chunks(2).map(|cell| self.character(cell[0])).collect::<String>();
        cells.chunks(COLUMNS * 2).map(|cells| line(cells) + "\n").collect()
    }

    fn character(&self, byte: u8) -> char {
        match byte {
            0..0x20 => self.low[usize::from(byte)],
            0x20..0x7f => byte.into(),
            _ => self.high[usize::from(byte - 0x7f)],
        }
    }
}

/// Foreground and background; the display's colours have red and blue the other way round than terminals.
fn colours(attribute: u8) -> String {
    const TERMINAL: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];
    let (front, back) = (TERMINAL[usize::from(attribute & 7)], TERMINAL[usize::from(attribute >> 4 & 7)]);
    let bright = if attribute & 8 != 0 { 90 } else { 30 };
    format!("\x1b[0;{};{}m", bright + front, 40 + back)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> [u8; SCREEN] {
        let mut cells = [0x07; SCREEN];
        cells.iter_mut().step_by(2).for_each(|byte| *byte = b' ');
        cells
    }

    const VIEW: View = View { start: 0, cursor: None };

    #[test]
    fn the_font_is_whole() {
        let screen = Screen::default();
        assert_eq!((screen.low.len(), screen.high.len()), (0x20, 0x81));
        assert_eq!([0x01, b'A', 0xb3, 0xdb, 0xff].map(|byte| screen.character(byte)), ['☺', 'A', '│', '█', ' ']);
    }

    #[test]
    fn only_what_changed_is_drawn() {
        let (mut screen, mut cells) = (Screen::default(), blank());
        assert!(screen.draw(&cells, VIEW).contains("\x1b[2J"));
        assert_eq!(screen.draw(&cells, VIEW), "");
        cells[(2 * COLUMNS + 3) * 2..][..4].copy_from_slice(&[b'H', 0x1e, b'i', 0x1e]);
        assert_eq!(screen.draw(&cells, VIEW), "\x1b[3;4H\x1b[0;93;44mHi");
        let view = View { start: 0x100, cursor: Some(0x100 + 81) };
        assert_eq!(screen.draw(&cells, view), "\x1b[2;2H\x1b[?25h");
        assert!(screen.text(&cells).lines().nth(2).unwrap().starts_with("   Hi"));
    }
}
