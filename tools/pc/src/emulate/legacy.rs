//! x87 and SSE state as they lie in an XSAVE area: its legacy region and the header's word behind it (Intel SDM volume 1,
//! 10.5.1 and 13.4).

use kvm_bindings::{kvm_fpu, kvm_xsave};

/// Words of four bytes: the control and status words, the tag word and the opcode, the pointers, and MXCSR.
const CONTROL: usize = 0;
const TAG: usize = 1;
const INSTRUCTION: usize = 2;
const OPERAND: usize = 4;
const MXCSR: usize = 6;
/// The x87 registers, sixteen bytes each, and the SSE registers behind them.
const X87: usize = 8;
const SSE: usize = 40;
/// The word that says which components are not as after reset; x87 is its bit 0 and SSE its bit 1.
const STATE_BV: usize = 128;
const X87_AND_SSE: u32 = 3;

/// The state in an area as KVM gives it, which shows what a component is also where its bit is clear.
pub fn of(area: &kvm_xsave) -> kvm_fpu {
    let word = |at: usize| area.region[at];
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
    let register = |at: usize| {
        let mut bytes = [0; 16];
        for (to, from) in bytes.chunks_exact_mut(4).zip(&area.region[at..]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        bytes
    };
    kvm_fpu {
        fpr: std::array::from_fn(|number| register(X87 + 4 * number)),
        fcw: word(CONTROL) as u16,
        fsw: (word(CONTROL) >> 16) as u16,
        ftwx: word(TAG) as u8,
        last_opcode: (word(TAG) >> 16) as u16,
        last_ip: long(INSTRUCTION),
        last_dp: long(OPERAND),
        xmm: std::array::from_fn(|number| register(SSE + 4 * number)),
        mxcsr: word(MXCSR),
        ..kvm_fpu::default()
    }
}

/// Puts the state into an area, and says in the area that it is there.
pub fn put(area: &mut kvm_xsave, fpu: &kvm_fpu) {
    let region = &mut area.region;
    region[CONTROL] = u32::from(fpu.fcw) | u32::from(fpu.fsw) << 16;
    region[TAG] = u32::from(fpu.ftwx) | u32::from(fpu.last_opcode) << 16;
    for (at, long) in [(INSTRUCTION, fpu.last_ip), (OPERAND, fpu.last_dp)] {
        (region[at], region[at + 1]) = (long as u32, (long >> 32) as u32);
    }
    region[MXCSR] = fpu.mxcsr;
    for (first, registers) in [(X87, &fpu.fpr[..]), (SSE, &fpu.xmm[..])] {
        for (to, from) in region[first..].iter_mut().zip(registers.as_flattened().chunks_exact(4)) {
            *to = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
    }
    region[STATE_BV] |= X87_AND_SSE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_has_its_place() {
        let mut area = kvm_xsave::default();
        for (at, word) in area.region.iter_mut().enumerate() {
            *word = 0x0101_0101u32.wrapping_mul(at as u32);
        }
        let fpu = of(&area);
        assert_eq!((fpu.ftwx, fpu.last_opcode, fpu.last_ip), (1, 0x0101, 0x0303_0303_0202_0202));
        assert_eq!((fpu.last_dp, fpu.mxcsr), (0x0505_0505_0404_0404, 0x0606_0606));
        assert_eq!((fpu.fpr[1][0], fpu.xmm[0][0], fpu.xmm[15][15]), (12, 40, 103));
        let before = area.region;
        put(&mut area, &fpu);
        assert_eq!(area.region[TAG], 0x0101_0001, "the byte behind the tags is reserved");
        area.region[TAG] = before[TAG];
        assert_eq!((area.region[..STATE_BV] == before[..STATE_BV], area.region[STATE_BV]), (true, 0x8080_8083));
    }

    #[test]
    fn what_is_put_is_in_use() {
        let (mut area, mut fpu) = (kvm_xsave::default(), kvm_fpu { fcw: 0x27f, fsw: 0x8081, ..kvm_fpu::default() });
        fpu.xmm[3] = [7; 16];
        put(&mut area, &fpu);
        assert_eq!(area.region[STATE_BV], 3);
        assert_eq!(of(&area), fpu);
    }
}
