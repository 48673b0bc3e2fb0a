"""The model families of XTuner's page, one small table a file; ``varlen_lab.models`` reads them."""
