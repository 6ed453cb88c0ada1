"""The mixture-of-experts layers: routing, exchange, experts, and the fairseq model around them."""
