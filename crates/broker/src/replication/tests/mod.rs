//! Several brokers in one process, over real gRPC on loopback, each on a simulated disk; the test is their controller.

mod cluster;
mod compaction;
mod follower;
mod healing;
mod session;
