//! Compiles /proto without protoc.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let client =
        ["common", "data", "metadata", "admin", "coordinator", "records"].map(|f| format!("highwater/v1/{f}.proto"));
    let internal =
        ["replication", "controller", "raft", "transaction"].map(|f| format!("highwater/internal/v1/{f}.proto"));
    println!("cargo:rerun-if-changed={}", root.display());

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let public = protox::compile(&client, [&root])?;
    std::fs::write(out.join("highwater_descriptors.bin"), public.encode_to_vec())?;

    let all = protox::compile(client.iter().chain(&internal), [&root])?;
    // Payloads stay `Bytes`: slices of the receive buffer, not copies.
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}
