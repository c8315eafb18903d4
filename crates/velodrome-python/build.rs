//! Says in a sentence for which Pythons there is no velodrome. One that is too new, PyO3 names itself.

use pyo3_build_config::{PythonImplementation, PythonVersion};

const OLDEST: PythonVersion = PythonVersion { major: 3, minor: 11 };

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let python = pyo3_build_config::get();
    let (implementation, version) = (python.implementation(), python.version());
    if implementation != PythonImplementation::CPython || version < OLDEST {
        println!(
            "cargo::error=velodrome runs on CPython {OLDEST} and newer; this is {implementation}, \
             Python {version}"
        );
    }
}
