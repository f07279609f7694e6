//! Guests, assembled by the compiler.
//!
//! Keep them to plain moves, port and memory accesses, arithmetic and short jumps: some hosts emulate such code
//! instruction by instruction and refuse others.

/// Defines real-mode code as a function that returns its bytes: `real_mode!(name: "mov dx, 0x10", "out dx, al")`.
///
/// The names of all guests of an executable differ. Code may lie anywhere, so it refers to its own labels by jumps only.
macro_rules! real_mode {
    ($(#[$doc:meta])* $name:ident: $($line:literal),+ $(,)?) => {
        $crate::common::guest::assembled!($(#[$doc])* $name, ".code16", $($line),+);
    };
}
pub(crate) use real_mode;

/// The same for 64-bit code.
#[allow(unused_macros, reason = "each test executable uses its part")]
macro_rules! long_mode {
    ($(#[$doc:meta])* $name:ident: $($line:literal),+ $(,)?) => {
        $crate::common::guest::assembled!($(#[$doc])* $name, ".code64", $($line),+);
    };
}
#[allow(unused_imports, reason = "each test executable uses its part")]
pub(crate) use long_mode;

/// Both of the above.
macro_rules! assembled {
    ($(#[$doc:meta])* $name:ident, $mode:literal, $($line:literal),+) => {
        #[allow(unsafe_code)]
        mod $name {
            core::arch::global_asm!(
                // A section of its own, so that `.org` counts from the guest's first byte.
                concat!(".pushsection .rodata.guest_", stringify!($name), ",\"a\",@progbits"),
                concat!(".global guest_", stringify!($name)),
                concat!(".global guest_end_", stringify!($name)),
                concat!("guest_", stringify!($name), ":"),
                $mode,
                $($line,)+
                ".code64",
                concat!("guest_end_", stringify!($name), ":"),
                ".popsection",
            );

            pub fn code() -> &'static [u8] {
                unsafe extern "C" {
                    #[link_name = concat!("guest_", stringify!($name))]
                    static START: u8;
                    #[link_name = concat!("guest_end_", stringify!($name))]
                    static END: u8;
                }
                let (start, end) = (&raw const START, &raw const END);
                // SAFETY: both labels lie in one read-only section, in this order, with initialized bytes between them.
                unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
            }
        }

        $(#[$doc])*
        fn $name() -> &'static [u8] {
            $name::code()
        }
    };
}
pub(crate) use assembled;
