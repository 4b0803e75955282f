module quell/benches/go

go 1.21
