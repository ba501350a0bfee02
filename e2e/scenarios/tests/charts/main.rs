//! Promises of the charts to those who install Keyfleet, and the rules in force afterwards.

mod documents;
mod lifecycle;
mod rendered;
mod rights;
mod scoped;
