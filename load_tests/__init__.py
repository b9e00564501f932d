"""What Snowgate reaches under load, alone and beside other servers; each script says what it measures."""
