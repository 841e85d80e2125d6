"""Turn a backtesting platform's runs and tunes into knowledge about market regimes."""
