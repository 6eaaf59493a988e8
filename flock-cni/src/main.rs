//! The plugin: the process around [`Execution`].

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use flock_cni::plugin::{Execution, about};
use flock_cni::{rpc, stdin};

/// Exit status for a command line that is not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // Runtimes give no arguments; a person may.
    let Some(argument) = env::args_os().nth(1) else {
        let succeeded = Execution {
            env: &|variable| env::var_os(variable),
            stdin: &|budget| stdin::read(io::stdin(), budget),
            stdout: &mut io::stdout(),
            stderr: &mut io::stderr(),
            agent: &rpc::call,
        }
        .run();
        return if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    let written = match argument.to_str() {
        Some("-V" | "--version") => writeln!(io::stdout(), "flock {}", env!("CARGO_PKG_VERSION")),
        Some("-h" | "--help") => write!(io::stdout(), "{}", about()),
        _ => {
            // If stderr is closed there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "flock: unknown argument {:?}; try flock --help",
                argument.to_string_lossy()
            );
            return ExitCode::from(USAGE);
        }
    };
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
