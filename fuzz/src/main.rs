//! The fuzzer's entry. `FUZZ_TARGET` names the target; arguments are libFuzzer's own. With `FUZZ_SEEDS`, two directories
//! and a colon between them, it writes the seeds of the repository (the first) into the second instead.

#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: seed(), |data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        targets::named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET: one of {:?}", targets::NAMES))
    });
    target(data);
});

fn seed() {
    let Ok(paths) = std::env::var("FUZZ_SEEDS") else { return };
    let (root, out) = paths.split_once(':').expect("FUZZ_SEEDS=repository:directory");
    targets::seeds::write_all(root.as_ref(), out.as_ref()).expect("the seeds can be written");
    std::process::exit(0);
}
