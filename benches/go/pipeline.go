package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// pipelines measures the pipeline of benches/pipelines.rs: a producer, a relay and
// workers that add one, with room for 64 items between them. Every send and every
// receive also waits for the context.
func pipelines() {
	for _, threads := range []int{2, 1} {
		before := runtime.GOMAXPROCS(threads)
		kind := "threads"
		if threads == 1 {
			kind = "thread"
		}
		report(fmt.Sprintf("an item, %d %s", threads, kind), median(5, sumOfMany))
		runtime.GOMAXPROCS(before)
	}
}

func sumOfMany() float64 {
	const items = 200_000
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	sum := 0
	for n := range work(ctx, relay(ctx, produce(ctx, items)), 8) {
		sum += n
	}
	took := time.Since(began)
	if sum != items*(items+1)/2 {
		panic("a sum that is wrong")
	}
	return float64(took.Nanoseconds()) / items
}

func produce(ctx context.Context, items int) <-chan int {
	out := make(chan int, 64)
	go func() {
		defer close(out)
		for n := 0; n < items; n++ {
			if !send(ctx, out, n) {
				return
			}
		}
	}()
	return out
}

func relay(ctx context.Context, in <-chan int) <-chan int {
	out := make(chan int, 64)
	go func() {
		defer close(out)
		for {
			n, ok := receive(ctx, in)
			if !ok || !send(ctx, out, n) {
				return
			}
		}
	}()
	return out
}

func work(ctx context.Context, in <-chan int, workers int) <-chan int {
	out := make(chan int, 64)
	var all sync.WaitGroup
	all.Add(workers)
	for i := 0; i < workers; i++ {
		go func() {
			defer all.Done()
			for {
				n, ok := receive(ctx, in)
				if !ok || !send(ctx, out, n+1) {
					return
				}
			}
		}()
	}
	go func() {
		all.Wait()
		close(out)
	}()
	return out
}

func send(ctx context.Context, out chan<- int, n int) bool {
	select {
	case out <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

func receive(ctx context.Context, in <-chan int) (int, bool) {
	select {
	case n, ok := <-in:
		return n, ok
	case <-ctx.Done():
		return 0, false
	}
}
