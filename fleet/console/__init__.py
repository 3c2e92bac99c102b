"""The web page: approvals by signed links."""
