//! Importer of container images.
//!
//! Nothing is here yet: the importer is built as one piece (formats, whiteouts,
//! dedupe, one transaction), and until then there is no binary that pretends.
