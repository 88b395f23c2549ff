//! Contains all integration tests of this crate in one program. If each file were a separate
//! program, each program would link all libraries.

mod damaged_stores;
mod disk;
mod flips;
mod gnutar;
mod holes;
mod inherit;
mod leftovers;
mod model_of_merging;
mod packers;
mod pipeline;
mod reuse;
mod rig;
mod shared;
mod spare;
mod sweep;
mod top;
