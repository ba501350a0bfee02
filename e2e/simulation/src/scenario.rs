//! Random lives of random fleets.
