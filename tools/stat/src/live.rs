//! The live view: the table of the last interval, again and again, and keys.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, queue};

use super::rows::View;
use super::{Look, StatError, table};
use outboard_reach::find::Running;
use outboard_wire::stats::buckets::Part;

/// How long a key or the VM's end may wait to be noticed.
const STEP: Duration = Duration::from_millis(50);

/// What the user has chosen.
struct Screen {
    view: View,
    interval: Duration,
    /// Counts since the start, else of the last interval.
    total: bool,
    /// The picture stands still.
    frozen: bool,
    /// Rows scrolled away.
    scroll: usize,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Redraw,
    Quit,
}

/// Shows a VM until it ends or the user has seen enough.
pub fn run(vm: &Running, view: View, interval: Duration) -> Result<(), StatError> {
    let terminal = Terminal::take().map_err(StatError::Terminal)?;
    let mut screen = Screen { view, interval, total: false, frozen: false, scroll: 0 };
    let ended = watch(vm, &mut screen)?;
    drop(terminal);
    if let Some(last) = ended {
        // The whole of it stays on the terminal when the VM is gone.
        let _ = io::stdout().write_all(table::whole(vm, &last, &screen.view).as_bytes());
    }
    Ok(())
}

/// Returns the last look if the VM ended.
fn watch(vm: &Running, screen: &mut Screen) -> Result<Option<Look>, StatError> {
    let mut before = Look::at(vm)?;
    let mut since = before.since(&before);
    let mut all = Look::at(vm)?;
    loop {
        draw(vm, screen, if screen.total { &all } else { &since }).map_err(StatError::Terminal)?;
        let next = Instant::now() + screen.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !vm.is_alive() {
                break;
            }
            if event::poll(left.min(STEP)).map_err(StatError::Terminal)? {
                match event::read().map_err(StatError::Terminal)? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => match screen.key(key) {
                        Wish::Quit => return Ok(None),
                        Wish::Redraw => break,
                        Wish::Nothing => {}
                    },
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
        }
        let now = Look::at(vm)?;
        if now.ended {
            return Ok(Some(now));
        }
        // A key redraws what is there; only a whole interval makes a new picture.
        if !screen.frozen && Instant::now() >= next {
            since = now.since(&before);
            before = now;
            all = Look::at(vm)?;
        }
    }
}

impl Screen {
    fn key(&mut self, key: KeyEvent) -> Wish {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s') => self.view.sort = self.view.sort.next(),
            KeyCode::Char('r') => self.view.reverse = !self.view.reverse,
            KeyCode::Char('g') => self.view.by_range = !self.view.by_range,
            KeyCode::Char('v') => self.view.by_vcpu = !self.view.by_vcpu,
            KeyCode::Char('p') => {
                self.view.part = Part::ALL[(self.view.part as usize + 1) % Part::ALL.len()];
            }
            KeyCode::Char('t') => self.total = !self.total,
            KeyCode::Char(' ') => self.frozen = !self.frozen,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(Duration::from_secs(60)),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(Duration::from_millis(125)),
            KeyCode::Down => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Home => self.scroll = 0,
            _ => return Wish::Nothing,
        }
        Wish::Redraw
    }

    /// The line that says what is shown, and the keys.
    fn foot(&self) -> [String; 2] {
        let shown = if self.total { "since the start" } else { "the last interval" };
        let frozen = if self.frozen { "  FROZEN" } else { "" };
        let direction = if self.view.reverse { " reversed" } else { "" };
        [
            format!(
                "{shown} of {:.2} s; part {}; by {}{direction}{frozen}",
                self.interval.as_secs_f64(),
                self.view.part.name(),
                self.view.sort.name()
            ),
            "q quit  s sort  r reverse  g ranges  v vCPUs  p part  t total  space freeze  +-".to_owned(),
        ]
    }
}

/// The lines of a picture of this size, top to bottom. The second of the pair says whether the line stands out.
fn picture(vm: &Running, screen: &mut Screen, look: &Look, width: usize, height: usize) -> Vec<(String, bool)> {
    let head = table::head(vm, look);
    let mut lines = table::lines(look, &screen.view, width);
    let titles = lines.remove(0);
    let room = height.saturating_sub(head.len() + 4).max(1);
    screen.scroll = screen.scroll.min(lines.len().saturating_sub(room));
    let more = lines.len().saturating_sub(screen.scroll + room);
    let mut picture: Vec<(String, bool)> = head.into_iter().map(|line| (line, false)).collect();
    picture.push((titles, true));
    picture.extend(lines.into_iter().skip(screen.scroll).take(room).map(|line| (line, false)));
    picture.resize(height.saturating_sub(3).max(picture.len()), (String::new(), false));
    picture.push((if more > 0 { format!("... {more} more below") } else { String::new() }, false));
    let [shown, keys] = screen.foot();
    picture.push((shown, false));
    picture.push((keys, true));
    picture.truncate(height);
    for (line, _) in &mut picture {
        *line = line.chars().take(width).collect();
    }
    picture
}

fn draw(vm: &Running, screen: &mut Screen, look: &Look) -> io::Result<()> {
    let (width, height) = terminal::size()?;
    let mut out = io::stdout().lock();
    for (at, (line, stands_out)) in picture(vm, screen, look, width.into(), height.into()).into_iter().enumerate() {
        queue!(out, cursor::MoveTo(0, at as u16))?;
        if stands_out {
            let padded = format!("{line:<width$}", width = usize::from(width));
            queue!(out, SetAttribute(Attribute::Reverse), Print(padded), SetAttribute(Attribute::Reset))?;
        } else {
            queue!(out, Print(line), Clear(ClearType::UntilNewLine))?;
        }
    }
    out.flush()
}

/// The terminal in raw mode on its other screen; given back when dropped.
struct Terminal;

impl Terminal {
    fn take() -> io::Result<Terminal> {
        terminal::enable_raw_mode()?;
        let terminal = Terminal;
        queue!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        io::stdout().flush()?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = queue!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = io::stdout().flush();
        let _ = terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let mut screen =
            Screen { view: View::default(), interval: Duration::from_secs(1), total: false, frozen: false, scroll: 0 };
        let mut press = |code| screen.key(KeyEvent::new(code, KeyModifiers::NONE));
        for key in ['s', 'r', 'g', 'v', 'p', 't', ' ', '+', '-'] {
            assert_eq!(press(KeyCode::Char(key)), Wish::Redraw, "{key}");
        }
        assert_eq!(press(KeyCode::Char('x')), Wish::Nothing);
        assert_eq!(press(KeyCode::Char('q')), Wish::Quit);
        assert!(screen.view.by_range && screen.view.by_vcpu && screen.view.reverse && screen.total && screen.frozen);
        assert_eq!((screen.view.part, screen.interval), (Part::Publish, Duration::from_secs(1)));
        assert!(screen.foot()[1].len() <= 80);
    }
}
