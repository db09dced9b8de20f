"""From a run folder to pictures, a page, and tables; knows nothing of torch or Flower."""
