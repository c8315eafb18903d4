//! Says in a sentence what would otherwise be hundreds of errors.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system != "linux" {
        println!("cargo::error=velodrome runs on Linux, and only there; this is {system}");
    }
}
