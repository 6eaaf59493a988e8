//! The habits of the project as commands: `cargo xtask lab`, `test`, `build`, `bench`.
fn main() {}
