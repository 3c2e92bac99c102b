"""Activities: one module for each tool. Each serves the stubs of `fleet.contracts.tools` that bear its name."""
