//! What a terminal sends, as keys of a keyboard: codes of set 1, a key down and up for each character.

/// The keys with their codes from 2 on, without and with shift (US layout).
const ROWS: [(u8, &[u8], &[u8]); 4] = [
    (0x02, b"1234567890-=", b"!@#$%^&*()_+"),
    (0x10, b"qwertyuiop[]", b"QWERTYUIOP{}"),
    (0x1e, b"asdfghjkl;'`", b"ASDFGHJKL:\"~"),
    (0x2b, b"\\zxcvbnm,./", b"|ZXCVBNM<>?"),
];
const SHIFT: u8 = 0x2a;
const CONTROL: u8 = 0x1d;
const ESCAPE: u8 = 0x01;
const UP: u8 = 0x80;

/// What a terminal sends behind ESC for keys without a character (xterm's control sequences), and the keys.
const SEQUENCES: [(&[u8], &[u8]); 18] = [
    (b"[A", &[0xe0, 0x48]),
    (b"[B", &[0xe0, 0x50]),
    (b"[C", &[0xe0, 0x4d]),
    (b"[D", &[0xe0, 0x4b]),
    (b"OA", &[0xe0, 0x48]),
    (b"OB", &[0xe0, 0x50]),
    (b"OC", &[0xe0, 0x4d]),
    (b"OD", &[0xe0, 0x4b]),
    (b"[H", &[0xe0, 0x47]),
    (b"[F", &[0xe0, 0x4f]),
    (b"[2~", &[0xe0, 0x52]),
    (b"[3~", &[0xe0, 0x53]),
    (b"[5~", &[0xe0, 0x49]),
    (b"[6~", &[0xe0, 0x51]),
    (b"OP", &[0x3b]),
    (b"OQ", &[0x3c]),
    (b"OR", &[0x3d]),
    (b"OS", &[0x3e]),
];

/// One key: its codes down and up, with those of shift or control around it.
pub type Key = Vec<Vec<u8>>;

/// The keys that make a terminal send these bytes. A sequence has to come in one piece, as terminals send it.
pub fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        if *first == 0x1b
            && let Some((sequence, code)) = SEQUENCES.iter().find(|(sequence, _)| rest.starts_with(sequence))
        {
            keys.push(press(code, None));
            bytes = &rest[sequence.len()..];
            continue;
        }
        keys.extend(character(*first));
        bytes = rest;
    }
    keys
}

fn character(byte: u8) -> Option<Key> {
    let plain = match byte {
        b'\r' | b'\n' => Some(0x1c),
        b'\t' => Some(0x0f),
        b' ' => Some(0x39),
        0x7f | 0x08 => Some(0x0e),
        0x1b => Some(ESCAPE),
        _ => None,
    };
    if let Some(code) = plain {
        return Some(press(&[code], None));
    }
    if (1..=26).contains(&byte) {
        let (code, _) = find(byte - 1 + b'a')?;
        return Some(press(&[code], Some(CONTROL)));
    }
    let (code, shifted) = find(byte)?;
    Some(press(&[code], shifted.then_some(SHIFT)))
}

/// The code of a character's key, and whether it takes shift.
fn find(byte: u8) -> Option<(u8, bool)> {
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let at = |row: &[u8]| row.iter().position(|known| *known == byte).map(|at| first + at as u8);
        at(plain).map(|code| (code, false)).or_else(|| at(shifted).map(|code| (code, true)))
    })
}

fn press(code: &[u8], with: Option<u8>) -> Key {
    let mut up = code.to_vec();
    if let Some(last) = up.last_mut() {
        *last |= UP;
    }
    let around = |code: u8| with.map(|with| vec![with | code]);
    [around(0), Some(code.to_vec()), Some(up), around(UP)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_keys() {
        assert_eq!(keys(b"a"), [vec![vec![0x1e], vec![0x9e]]]);
        assert_eq!(keys(b"A")[0], [vec![0x2a], vec![0x1e], vec![0x9e], vec![0xaa]]);
        assert_eq!(keys(b"\x03")[0], [vec![0x1d], vec![0x2e], vec![0xae], vec![0x9d]]);
        assert_eq!(keys(b" \r\x7f").iter().map(|key| key[0][0]).collect::<Vec<_>>(), [0x39, 0x1c, 0x0e]);
        assert_eq!(keys("ü".as_bytes()), [] as [Key; 0]);
    }

    #[test]
    fn arrows_are_one_key() {
        assert_eq!(keys(b"\x1b[Dx"), [vec![vec![0xe0, 0x4b], vec![0xe0, 0xcb]], vec![vec![0x2d], vec![0xad]]]);
        assert_eq!(keys(b"\x1b")[0][0], [ESCAPE]);
    }

    #[test]
    fn every_printable_character_has_a_key() {
        for byte in b' '..=b'~' {
            assert_eq!(keys(&[byte]).len(), 1, "{}", byte as char);
        }
    }
}
