//! Rows of files that loggers write, TOA5 (Campbell Scientific) and generic CSV, as they grow.
//!
//! [`text`] makes characters and cells of bytes, [`stamp`] instants, [`form`] rows; [`tail`] is the place in one file, and
//! [`glob`] says which files of a folder are meant. Whoever calls lists folders and reads bytes.
//!
//! # What is one line
//! A line ends with a line feed. One without is still being written, and waits; half a number is a wrong number. Whoever
//! knows that nothing more comes may have it [early](tail::Tail::early).

pub mod form;
pub mod glob;
pub mod stamp;
pub mod tail;
pub mod text;
