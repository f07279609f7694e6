//! The devices, one room each. A device knows its registers and nothing of the machine around it: what it needs from
//! there (an interrupt line, memory, the end of the machine) is handed to it when it is made.

pub mod ata;
pub mod cmos;
pub mod debug;
pub mod fw_cfg;
pub mod keyboard;
pub mod pci;
pub mod pm;
pub mod post;
pub mod reset;
pub mod speaker;
pub mod uart;
pub mod vga;
pub mod virtio;
