//! The plan of a start, case by case.
