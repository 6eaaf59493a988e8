//! The one question asked of an executable: does it need a dynamic loader?

use anyhow::{Context, Result, bail};

/// Type of the program header that names the loader (ELF specification, "Program Header").
const PT_INTERP: u32 = 3;

/// Whether a 64-bit little-endian ELF file runs without a dynamic loader, and so on any host.
pub(super) fn is_static(file: &[u8]) -> Result<bool> {
    // Magic, then class 2 (64 bits), then data 1 (little-endian).
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF executable");
    }
    let table = u64::from_le_bytes(bytes(file, 32)?);
    let size = u64::from(u16::from_le_bytes(bytes(file, 54)?));
    let count = u64::from(u16::from_le_bytes(bytes(file, 56)?));
    for index in 0..count {
        let offset = usize::try_from(table.saturating_add(index * size))?;
        if u32::from_le_bytes(bytes(file, offset)?) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

fn bytes<const N: usize>(file: &[u8], offset: usize) -> Result<[u8; N]> {
    let end = offset.saturating_add(N);
    let found = file.get(offset..end).and_then(|slice| slice.try_into().ok());
    found.with_context(|| format!("ends before byte {end}, which its header promises"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header followed by program headers of these types.
    fn elf(types: &[u32]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(types.len()).unwrap().to_le_bytes());
        for kind in types {
            file.extend(kind.to_le_bytes());
            file.resize(file.len() + 52, 0);
        }
        file
    }

    #[test]
    fn executable_is_static_when_it_names_no_loader() {
        assert!(is_static(&elf(&[1, 2, 6])).unwrap());
        assert!(!is_static(&elf(&[6, PT_INTERP, 1])).unwrap());
    }

    #[test]
    fn what_is_no_whole_elf_file_is_an_error() {
        let whole = elf(&[1, 1]);
        for bad in [&b""[..], b"#!/bin/sh", &whole[..40], &whole[..100]] {
            assert!(is_static(bad).is_err(), "{} bytes", bad.len());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_test_itself_is_dynamic() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&file).unwrap());
    }
}
