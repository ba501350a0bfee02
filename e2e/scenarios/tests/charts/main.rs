//! What the charts promise to who installs Keyfleet, and what is in force afterwards.

mod lifecycle;
mod rendered;
mod rights;
mod scoped;
