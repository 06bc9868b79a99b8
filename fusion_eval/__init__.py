"""fusion_eval: know how good a merged model is."""
