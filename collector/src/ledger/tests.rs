//! Rows and random histories for the ledger.
