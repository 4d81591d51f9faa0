#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| keymgr_upgrade::fuzz::version(data));
