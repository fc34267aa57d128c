//! There is nothing here but tests: `cargo test --manifest-path oracle/canton/Cargo.toml`.
