"""Sample scenes: invented, drawn and described in English and Chinese."""
