//! Prints the definition of NodeConfig for the API server: what `cargo xtask crd` puts into `deploy/`.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", flock_k8s::crd::crd_yaml()?);
    Ok(())
}
