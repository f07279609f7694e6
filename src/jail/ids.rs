//! Who the plugin is: user and group in its user namespace and outside, and which further groups it belongs to.

use std::fmt::Write as _;

/// The user and group that the kernel shows for ids without a mapping, by default; owner of nothing (`user_namespaces(7)`).
pub const NOBODY: u32 = 65534;

/// Most bytes of a map: it is written at once, and has to be shorter than a page (`user_namespaces(7)`).
const MAX_MAP: usize = 4095;
/// Most groups a process can belong to (`NGROUPS_MAX`).
const MAX_GROUPS: u64 = 65536;

/// A user that a process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A line of an id map: `count` ids from `inner` on in the namespace are those from `outer` on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id in the namespace.
    pub inner: u32,
    /// First id outside.
    pub outer: u32,
    /// Number of ids, at least 1.
    pub count: u32,
}

impl IdMap {
    /// Whether two maps share an id inside or outside.
    fn meets(&self, other: &IdMap) -> bool {
        let meet = |a: u32, b: u32| a - a.min(b) < other.count && b - b.min(a) < self.count;
        meet(self.inner, other.inner) || meet(self.outer, other.outer)
    }

    fn ends_in_range(&self) -> bool {
        // The last id, -1, stands for "no id".
        [self.inner, self.outer].iter().all(|first| u64::from(*first) + u64::from(self.count) <= u64::from(u32::MAX))
    }
}

/// What the calling process is, and may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Whether it may map other ids than these: it has `CAP_SETUID` and `CAP_SETGID`.
    pub may_map: bool,
}

/// The ids of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id in the namespace.
    pub uid: u32,
    /// Group id in the namespace.
    pub gid: u32,
    /// The map of user ids.
    pub uid_map: Vec<IdMap>,
    /// The map of group ids.
    pub gid_map: Vec<IdMap>,
    /// Supplementary groups, by their ids outside; `None` leaves the caller's, who may not change them.
    pub groups: Option<Vec<u32>>,
}

/// Why there can be no such ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// Too few or too many ids.
    #[error("--plugin-gid-map {}: its ids are not within 0 to 4294967294, and at least one", said(.0))]
    Range(IdMap),
    /// Two maps share an id.
    #[error("--plugin-gid-map {}: it shares a group with {}; each group is mapped once", said(.0), said(.1))]
    Meets(IdMap, IdMap),
    /// More than the kernel takes.
    #[error(
        "the maps of --plugin-gid-map are too many: the kernel takes {MAX_MAP} bytes of them, and {MAX_GROUPS} groups"
    )]
    TooMany,
    /// The caller lacks the right.
    #[error(
        "--plugin-gid-map {}: user {uid} may map its own group {gid} only, once; run outboard as root for others", said(.map)
    )]
    NoRight {
        /// The map.
        map: IdMap,
        /// The caller.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl IdsError {
    /// Whether the arguments would do for another user.
    pub fn is_lack_of_right(&self) -> bool {
        matches!(self, IdsError::NoRight { .. })
    }
}

fn said(map: &IdMap) -> String {
    format!("{}:{}:{}", map.inner, map.outer, map.count)
}

impl Ids {
    /// Decides who the plugin is. Root makes it somebody else: `outer`, by user and group. Anybody else can only make it
    /// what they are themselves. It is never user or group 0 in its own eyes.
    ///
    /// # Errors
    /// The map of groups that cannot be.
    pub fn new(caller: Caller, outer: (u32, u32), gid_maps: &[IdMap]) -> Result<Ids, IdsError> {
        let (uid, gid) = if caller.may_map { outer } else { (caller.uid, caller.gid) };
        let own = |outer: u32| IdMap { inner: if outer == 0 { NOBODY } else { outer }, outer, count: 1 };
        let (uid_map, own_group) = (own(uid), own(gid));
        let mut maps = vec![own_group];
        for map in gid_maps {
            if map.count == 0 || !map.ends_in_range() {
                return Err(IdsError::Range(*map));
            }
            if *map == own_group {
                continue;
            }
            if !caller.may_map {
                return Err(IdsError::NoRight { map: *map, uid: caller.uid, gid: caller.gid });
            }
            if let Some(other) = maps.iter().find(|other| map.meets(other)) {
                return Err(IdsError::Meets(*map, *other));
            }
            maps.push(*map);
        }
        let members: u64 = maps[1..].iter().map(|map| u64::from(map.count)).sum();
        if text(&maps).len() > MAX_MAP || members > MAX_GROUPS {
            return Err(IdsError::TooMany);
        }
        let members = maps[1..].iter().flat_map(|map| map.outer..map.outer + map.count);
        let groups = caller.may_map.then(|| members.collect());
        Ok(Ids { uid: uid_map.inner, gid: own_group.inner, uid_map: vec![uid_map], gid_map: maps, groups })
    }
}

/// Whether a map, as `/proc/PID/uid_map` shows it, has an inner id: whether the id exists in that namespace.
pub fn covers(map: &str, id: u32) -> bool {
    let covers = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inner)), Some(Ok(_)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (inner..inner.saturating_add(count)).contains(&id.into())
    };
    map.lines().any(covers)
}

/// A map as the kernel reads it.
pub fn text(maps: &[IdMap]) -> String {
    let mut text = String::new();
    for map in maps {
        let _ = writeln!(text, "{} {} {}", map.inner, map.outer, map.count);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Caller = Caller { uid: 0, gid: 0, may_map: true };
    const USER: Caller = Caller { uid: 1000, gid: 100, may_map: false };

    fn map(inner: u32, outer: u32, count: u32) -> IdMap {
        IdMap { inner, outer, count }
    }

    #[test]
    fn root_makes_the_plugin_somebody_else() {
        let ids = Ids::new(ROOT, (NOBODY, NOBODY), &[map(5, 27, 2), map(0, 44, 1)]).unwrap();
        assert_eq!((ids.uid, ids.gid), (NOBODY, NOBODY));
        assert_eq!(text(&ids.uid_map), "65534 65534 1\n");
        assert_eq!(text(&ids.gid_map), "65534 65534 1\n5 27 2\n0 44 1\n");
        assert_eq!(ids.groups, Some(vec![27, 28, 44]));
    }

    #[test]
    fn a_user_can_only_be_itself() {
        let ids = Ids::new(USER, (NOBODY, NOBODY), &[map(100, 100, 1)]).unwrap();
        assert_eq!((ids.uid, ids.gid, ids.groups), (1000, 100, None));
        assert_eq!((text(&ids.uid_map), text(&ids.gid_map)), ("1000 1000 1\n".into(), "100 100 1\n".into()));
        let refused = Ids::new(USER, (NOBODY, NOBODY), &[map(5, 27, 1)]).unwrap_err();
        assert!(refused.is_lack_of_right());
        let said =
            "--plugin-gid-map 5:27:1: user 1000 may map its own group 100 only, once; run outboard as root for others";
        assert_eq!(refused.to_string(), said);
    }

    #[test]
    fn nobody_is_root_inside() {
        let ids = Ids::new(Caller { may_map: false, ..ROOT }, (1, 1), &[]).unwrap();
        assert_eq!((ids.uid, ids.gid), (NOBODY, NOBODY));
        assert_eq!(text(&ids.uid_map), "65534 0 1\n");
    }

    #[test]
    fn ids_of_a_container_are_those_of_its_map() {
        assert!(covers("         0          0 4294967295\n", NOBODY));
        assert!(covers("0 1000 1\n1 100000 65534\n", 65534));
        assert!(!covers("0 1000 1\n", NOBODY) && !covers("", 0) && !covers("x y z\n", 0));
    }

    #[test]
    fn wrong_maps_are_refused() {
        let refused = |maps: &[IdMap]| Ids::new(ROOT, (7, 7), maps).unwrap_err();
        for wrong in [map(0, 0, 0), map(u32::MAX, 0, 1), map(0, u32::MAX, 1), map(1, 1, u32::MAX)] {
            assert_eq!(refused(&[wrong]), IdsError::Range(wrong));
        }
        for (a, b) in [
            (map(1, 10, 5), map(5, 20, 1)),
            (map(1, 10, 5), map(20, 14, 3)),
            (map(5, 20, 1), map(1, 10, 5)),
            (map(10, 100, 3), map(12, 200, 9)),
        ] {
            assert_eq!(refused(&[a, b]), IdsError::Meets(b, a));
        }
        assert!(Ids::new(ROOT, (70, 70), &[map(1, 10, 5), map(6, 15, 5)]).is_ok(), "neighbours do not meet");
        assert_eq!(refused(&[map(7, 8, 1)]), IdsError::Meets(map(7, 8, 1), map(7, 7, 1)));
        let many: Vec<IdMap> = (0..400).map(|id| map(1000 + id, 100_000 + id, 1)).collect();
        assert_eq!(refused(&many), IdsError::TooMany);
        assert_eq!(refused(&[map(1000, 1000, 100_000)]), IdsError::TooMany);
    }
}
