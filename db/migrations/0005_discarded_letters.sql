-- A letter is kept once however often its discarding is repeated; without this, 100,000 letters mean 100,000 whole reads.
create index discarded_letter_copies on discarded_letter (letter_id, queue);
