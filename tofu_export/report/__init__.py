"""Reports as documents, text and pages."""
