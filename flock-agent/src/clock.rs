//! The clock and the boot the core is told of.

use anyhow::Context;
use flock_core::time::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Now, on the clock that starts with the boot and counts suspended time too.
pub(crate) fn now() -> Timestamp {
    // The kernel refuses a clock it does not have only; this one is there since Linux 2.6.39.
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(std::time::Duration::ZERO, Into::into);
    Timestamp::from_millis(0).after(since_boot)
}

/// Identifies this boot of the machine.
pub(crate) fn boot_id() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(id.trim().to_owned())
}
