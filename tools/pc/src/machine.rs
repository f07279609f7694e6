//! The machine put together: which device is where, and what connects them.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use outboard_plugin::{EventFd, Space};

use crate::acpi;
use crate::bus::{Bus, Bytewise, Device, Shared, lock};
use crate::clock::Clock;
use crate::console::output::Output;
use crate::device::ata::{self, EmptyChannel};
use crate::device::cmos::{self, Cmos};
use crate::device::debug::{DebugConsole, DebugExit};
use crate::device::fw_cfg::{self, FwCfg, key};
use crate::device::keyboard::Keyboard;
use crate::device::pci::Pci;
use crate::device::pm::{self, PowerManagement};
use crate::device::post::PostCode;
use crate::device::reset::SystemControl;
use crate::device::speaker::Speaker;
use crate::device::uart::Uart;
use crate::device::vga::{self, Vga};
use crate::device::virtio::block::Disk;
use crate::device::virtio::console::{self, Console};
use crate::device::virtio::mmio::{self, Live, Mmio};
use crate::device::virtio::{Backend, Kind};
use crate::ending::Ending;
use crate::error::PcError;
use crate::files::Files;
use crate::firmware;
use crate::host::Access::{PostedWrites, Synchronous};
use crate::host::{Host, Irq};
use crate::kernel::{self, Kernel};
use crate::memory::Memory;
use crate::options::{Keys, Options};
use crate::smbios::Smbios;

/// Registers of the first virtio device; the others follow at the same distance.
const VIRTIO: u64 = 0xfeb0_0000;
/// Distance between virtio devices.
const VIRTIO_STRIDE: u64 = 0x1000;
/// Interrupts of the virtio devices, in order: those of the AT that nothing else has, then those of the IOAPIC alone.
const VIRTIO_IRQS: [u32; 14] = [5, 10, 11, 7, 6, 12, 16, 17, 18, 19, 20, 21, 22, 23];
const COM1_IRQ: u32 = 4;
const COM2_IRQ: u32 = 3;
const KEYBOARD_IRQ: u32 = 1;
const CLOCK_IRQ: u32 = 8;

/// A serial port that the terminal and the bus share.
pub type SharedUart = Arc<Mutex<Bytewise<Uart>>>;
/// A keyboard likewise.
pub type SharedKeyboard = Arc<Mutex<Bytewise<Keyboard>>>;
/// A display likewise.
pub type SharedVga = Arc<Mutex<Bytewise<Vga>>>;

/// The machine.
pub struct Machine {
    /// Memory.
    pub memory: Memory,
    /// Devices by address.
    pub bus: Bus,
    /// The kernel that is started without firmware, if there is one.
    pub kernel: Option<Kernel>,
    /// The first serial port.
    pub serial: SharedUart,
    /// The keyboard.
    pub keyboard: SharedKeyboard,
    /// The display, if there is one.
    pub vga: Option<SharedVga>,
    /// The virtio console's input and the doorbell to ring for it, if there is one.
    pub virtio_console: Option<(console::Input, Arc<EventFd>)>,
    /// How it ends.
    pub ending: Ending,
}

/// What the machine is put into.
pub struct Around<'a> {
    /// Number of processors.
    pub cpus: u32,
    /// The machine's time.
    pub clock: &'a Clock,
    /// Gets what the guest prints on a serial line.
    pub output: &'a Output,
    /// Makes what gets the messages of firmware on a debug console.
    pub debug: Option<Box<dyn Fn() -> Box<dyn io::Write + Send>>>,
    /// How the machine ends.
    pub ending: &'a Ending,
}

impl Machine {
    /// Builds the machine and asks the host for what it needs.
    ///
    /// # Errors
    /// A sentence that says what cannot be had.
    pub fn new(
        host: &mut dyn Host,
        options: &Options,
        files: &mut Files,
        around: Around<'_>,
    ) -> Result<Machine, PcError> {
        let Around { cpus, clock, output, debug, ending } = around;
        let firmware = options.firmware.as_deref().map(|path| firmware::read(path, files)).transpose()?;
        let disks = options.disk.iter().enumerate().map(|(number, disk)| Disk::open(disk, number, files));
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        let memory = Memory::new(host, options.memory, options.vga)?;
        if let Some(image) = &firmware {
            memory.add_firmware(host, image)?;
        }

        let mut bus = Bus::default();
        let serial = add_serial(&mut bus, "COM1", 0x3f8, host.irq(COM1_IRQ)?, Box::new(output.clone()));
        add_serial(&mut bus, "COM2", 0x2f8, host.irq(COM2_IRQ)?, Box::new(io::sink()));
        if let Some(out) = debug {
            for port in [0x402, 0xe9] {
                let console: Shared = Arc::new(Mutex::new(Bytewise(DebugConsole::new(out()))));
                bus.add("debug console", Space::Port, port..port + 1, PostedWrites, &console);
            }
        }
        let exit: Shared = Arc::new(Mutex::new(DebugExit::new(ending.clone())));
        bus.add("debug exit", Space::Port, 0xf4..0xf8, Synchronous, &exit);
        let keyboard = Arc::new(Mutex::new(Bytewise(Keyboard::new(ending.clone(), host.irq(KEYBOARD_IRQ)?))));
        if firmware.is_none() {
            lock(&keyboard).0.switch_on();
        }
        add_keyboard(&mut bus, &keyboard);
        let speaker: Shared = Arc::new(Mutex::new(Bytewise(Speaker::new(host.timer()?, clock.clone()))));
        bus.add("speaker", Space::Port, 0x61..0x62, Synchronous, &speaker);
        let post: Shared = Arc::new(Mutex::new(Bytewise(PostCode::default())));
        bus.add("POST code", Space::Port, 0x80..0x81, PostedWrites, &post);
        let control: Shared = Arc::new(Mutex::new(Bytewise(SystemControl::new(ending.clone()))));
        bus.add("port 92", Space::Port, 0x92..0x93, Synchronous, &control);
        let channels: Shared = Arc::new(Mutex::new(Bytewise(EmptyChannel)));
        for ports in ata::PORTS {
            bus.add("ATA channel", Space::Port, ports, PostedWrites, &channels);
        }
        let about = cmos::About { low: memory.low(), high: memory.high(), cpus };
        let date = options.rtc_base.map_or_else(cmos::host_time, |date| Duration::from_secs(date.seconds() as u64));
        add_clock(&mut bus, Cmos::new(about, host.irq(CLOCK_IRQ)?, clock.clone(), date))?;
        add_pci(&mut bus, ending, clock, firmware.is_none());
        let vga = options.vga.then(|| add_vga(&mut bus));

        let mut virtio = Virtio { host, bus: &mut bus, memory: &memory, devices: Vec::new() };
        for disk in disks {
            virtio.add("virtio disk", disk.kind(), Box::new(disk))?;
        }
        let mut virtio_console = None;
        if options.console == Keys::Virtio {
            let input = console::Input::default();
            let line = Console::new(Box::new(output.clone()), Arc::clone(&input));
            let doorbells = virtio.add("virtio console", Console::kind(), Box::new(line))?;
            virtio_console = Some((input, Arc::clone(&doorbells[console::RECEIVE])));
        }
        let tables = acpi::Tables::new(&acpi::About { cpus, virtio: virtio.devices });
        let kernel = kernel::load(options, files, &memory, &tables)?;
        add_fw_cfg(&mut bus, fw_cfg(&memory, cpus, options, &tables));
        for (space, range, access) in bus.reservations() {
            host.reserve(space, range, access)?;
        }
        let ending = ending.clone();
        Ok(Machine { memory, bus, kernel, serial, keyboard, vga, virtio_console, ending })
    }
}

impl Machine {
    /// Puts devices and memory to where they are after a reset, while no vCPU runs. Interrupt controllers and timer are the
    /// host's. Memory that neither firmware nor kernel lies in keeps what it has.
    ///
    /// # Errors
    /// What was put there before is no memory.
    pub fn reset(&self) -> Result<(), PcError> {
        self.bus.reset();
        self.memory.show_firmware()?;
        self.kernel.as_ref().map_or(Ok(()), |kernel| kernel.put(&self.memory))
    }
}

fn add_serial(bus: &mut Bus, name: &'static str, port: u64, irq: Irq, out: Box<dyn io::Write + Send>) -> SharedUart {
    let uart = Arc::new(Mutex::new(Bytewise(Uart::new(irq, out))));
    let shared: Shared = uart.clone();
    bus.add(name, Space::Port, port..port + 8, PostedWrites, &shared);
    uart
}

/// The keyboard's two registers, with other devices' ports between them.
fn add_keyboard(bus: &mut Bus, keyboard: &SharedKeyboard) {
    let data: Shared = keyboard.clone();
    bus.add("keyboard", Space::Port, 0x60..0x61, Synchronous, &data);
    let command: Shared = Arc::new(Mutex::new(At { device: data, first: 4 }));
    bus.add("keyboard", Space::Port, 0x64..0x65, Synchronous, &command);
}

/// The rest of a device whose ranges are apart, or are reached in different ways.
struct At {
    device: Shared,
    first: u64,
}

impl Device for At {
    fn read(&mut self, offset: u64, width: usize) -> u64 {
        lock(&self.device).read(self.first + offset, width)
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        lock(&self.device).write(self.first + offset, width, value);
    }

    fn moment(&mut self, tsc: u64) {
        lock(&self.device).moment(tsc);
    }
}

/// The clock, and the thread that raises its interrupts.
fn add_clock(bus: &mut Bus, clock: Cmos) -> Result<(), PcError> {
    let clock = Arc::new(Mutex::new(Bytewise(clock)));
    let (changed, wake) = std::sync::mpsc::sync_channel(1);
    let index: Shared = clock.clone();
    bus.add("clock and CMOS", Space::Port, 0x70..0x71, PostedWrites, &index);
    let data: Shared = Arc::new(Mutex::new(ClockData { clock: Arc::clone(&clock), changed }));
    bus.add("clock and CMOS", Space::Port, 0x71..0x72, Synchronous, &data);
    let tick = move || {
        loop {
            let left = {
                let clock = &mut lock(&clock).0;
                let now = clock.time();
                clock.interrupt(now);
                clock.due().map(|due| due.saturating_sub(now))
            };
            let gone = match left {
                None => wake.recv().is_err(),
                Some(left) => wake.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected),
            };
            if gone {
                return;
            }
        }
    };
    thread::Builder::new().name("clock".into()).spawn(tick).map(drop).map_err(PcError::Thread)
}

/// The clock's data port: tells the clock's thread when something may be due at another time.
struct ClockData {
    clock: Arc<Mutex<Bytewise<Cmos>>>,
    changed: std::sync::mpsc::SyncSender<()>,
}

impl ClockData {
    fn changed(&self) {
        // A message that waits already says the same.
        let _ = self.changed.try_send(());
    }
}

impl Device for ClockData {
    fn read(&mut self, offset: u64, width: usize) -> u64 {
        let mut clock = lock(&self.clock);
        let value = clock.read(offset + 1, width);
        if clock.0.due().is_some() {
            drop(clock);
            self.changed();
        }
        value
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        lock(&self.clock).write(offset + 1, width, value);
        self.changed();
    }

    fn moment(&mut self, tsc: u64) {
        lock(&self.clock).moment(tsc);
    }
}

/// Configuration space. Without firmware nobody says where power management is; then it is where the tables say.
fn add_pci(bus: &mut Bus, ending: &Ending, clock: &Clock, settle: bool) {
    let base = Arc::new(AtomicU64::new(0));
    let mut pci = Pci::new(ending.clone(), Arc::clone(&base));
    if settle {
        pci.place_power_management(acpi::PM_BASE);
    }
    let pci: Shared = Arc::new(Mutex::new(pci));
    bus.add("PCI address", Space::Port, 0xcf8..0xcfc, PostedWrites, &pci);
    let data: Shared = Arc::new(Mutex::new(At { device: pci, first: 4 }));
    bus.add("PCI data", Space::Port, 0xcfc..0xd00, Synchronous, &data);
    let power: Shared = Arc::new(Mutex::new(PowerManagement::new(ending.clone(), clock.clone())));
    bus.add_movable("power management", base, pm::LENGTH, &power);
}

fn add_vga(bus: &mut Bus) -> SharedVga {
    let vga = Arc::new(Mutex::new(Bytewise(Vga::default())));
    let shared: Shared = vga.clone();
    bus.add("display", Space::Port, vga::FIRST..vga::FIRST + vga::LENGTH, PostedWrites, &shared);
    vga
}

fn fw_cfg(memory: &Memory, cpus: u32, options: &Options, tables: &acpi::Tables) -> FwCfg {
    let mut device = FwCfg::new(memory.map().clone());
    device.put(key::RAM_SIZE, &(memory.low() + memory.high()).to_le_bytes());
    device.put(key::NO_GRAPHICS, &u16::from(!options.vga).to_le_bytes());
    device.put(key::CPUS, &(cpus as u16).to_le_bytes());
    device.put(key::MAX_CPUS, &(cpus as u16).to_le_bytes());
    device.put(key::BOOT_MENU, &0u16.to_le_bytes());
    let ram = [(0, memory.low()), (1 << 32, memory.high())];
    let map = ram.into_iter().filter(|(_, length)| *length > 0);
    // Base, length, and type 1: RAM.
    let entry =
        |(base, length): (u64, u64)| [&base.to_le_bytes()[..], &length.to_le_bytes(), &1u32.to_le_bytes()].concat();
    device.add_file("etc/e820", map.flat_map(entry).collect());
    if !options.vga {
        device.add_file("etc/sercon-port", 0x3f8u16.to_le_bytes().to_vec());
    }
    let names = Smbios::new(memory.low() + memory.high(), cpus);
    for (name, bytes) in tables.files().into_iter().chain(names.files()) {
        device.add_file(name, bytes);
    }
    device
}

fn add_fw_cfg(bus: &mut Bus, device: FwCfg) {
    let device: Shared = Arc::new(Mutex::new(device));
    // The selector is an index, and the data behind it is read.
    bus.add("firmware config", Space::Port, 0x510..0x511, PostedWrites, &device);
    let data: Shared = Arc::new(Mutex::new(At { device, first: 1 }));
    bus.add("firmware config", Space::Port, 0x511..0x510 + fw_cfg::LENGTH, Synchronous, &data);
}

/// Puts virtio devices one behind the other.
struct Virtio<'a> {
    host: &'a mut dyn Host,
    bus: &'a mut Bus,
    memory: &'a Memory,
    devices: Vec<acpi::Virtio>,
}

impl Virtio<'_> {
    /// Adds a device, and a thread for each of its queues. Returns the queues' doorbells.
    fn add(&mut self, name: &'static str, kind: Kind, backend: Box<dyn Backend>) -> Result<Vec<Arc<EventFd>>, PcError> {
        let number = self.devices.len();
        let limit = VIRTIO_IRQS.len();
        let gsi = *VIRTIO_IRQS.get(number).ok_or(PcError::TooManyDevices { limit })?;
        let address = VIRTIO + number as u64 * VIRTIO_STRIDE;
        let notify = address + u64::from(virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY);
        let doorbells = (0..kind.queues.len() as u32).map(|queue| self.host.doorbell(notify, queue).map(Arc::new));
        let doorbells = doorbells.collect::<Result<Vec<_>, _>>()?;
        let map = self.memory.map().clone();
        let device = Mmio::new(kind, backend, map, self.host.irq(gsi)?, doorbells.clone());
        for (queue, doorbell) in doorbells.iter().enumerate() {
            serve(device.live(), queue, doorbell)?;
        }
        let device: Shared = Arc::new(Mutex::new(device));
        self.bus.add(name, Space::Mmio, address..address + mmio::LENGTH, Synchronous, &device);
        self.devices.push(acpi::Virtio { address: address as u32, length: mmio::LENGTH as u32, gsi });
        Ok(doorbells)
    }
}

/// The thread of a queue.
fn serve(live: &Arc<Live>, queue: usize, doorbell: &Arc<EventFd>) -> Result<(), PcError> {
    let (live, doorbell) = (Arc::clone(live), Arc::clone(doorbell));
    let work = move || {
        while doorbell.wait().is_ok() {
            live.serve(queue);
        }
    };
    thread::Builder::new().name("virtio".into()).spawn(work).map(drop).map_err(PcError::Thread)
}
