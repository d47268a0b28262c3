"""Decisions: told the time, answering what to do. The live server and the simulator both drive this code."""
