"""The break-it lab: twelve mistakes that people made, to be made once more and named by what they look like."""

LAB_TYPE = "application/vnd.varlen-lab.lab+json"  # an output in whose place our own pages put the lab: page.asked
